"""Submit runs and follow them, as any NATS client could."""

from langmesh.client.runs import Client, RunHandle

__all__ = ["Client", "RunHandle"]
