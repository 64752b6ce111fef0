"""Serve a coordinator: ``python -m langmesh.coordinator [[NAME=]MODULE:ATTRIBUTE …]``."""

import sys

from langmesh.coordinator.service import Coordinator

if __name__ == "__main__":
    Coordinator(sys.argv[1:]).serve()
