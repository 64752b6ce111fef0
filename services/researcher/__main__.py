"""Serve the researcher."""

from langmesh import Agent
from services.researcher.node import research

if __name__ == "__main__":
    Agent(graph="research", node="researcher").serve(research)
