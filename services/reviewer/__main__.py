"""Serve the reviewer."""

from langmesh import Agent
from services.reviewer.node import review

if __name__ == "__main__":
    Agent(graph="research", node="reviewer").serve(review)
