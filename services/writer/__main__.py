"""Serve the writer."""

from langmesh import Agent
from services.writer.node import write

if __name__ == "__main__":
    Agent(graph="research", node="writer").serve(write)
