"""Serve a node with the graph's own function: ``python -m services.agent GRAPH NODE``."""

import sys

from langmesh import Agent

if __name__ == "__main__":
    graph, node = sys.argv[1:]
    Agent(graph=graph, node=node).serve()
