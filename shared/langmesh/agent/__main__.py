"""Serve nodes with the graph's own functions: ``python -m langmesh.agent GRAPH NODE [NODE …]``."""

import sys

from langmesh.agent.host import serve_nodes

if __name__ == "__main__":
    serve_nodes(sys.argv[1], sys.argv[2:])
