"""Serve the planner."""

from langmesh import Agent
from services.planner.node import plan

if __name__ == "__main__":
    Agent(graph="research", node="planner").serve(plan)
