"""What every service process does: settings, uvloop, logs, traces, signals, a clean end."""

from langmesh.service.lifecycle import Service, run_service

__all__ = ["Service", "run_service"]
