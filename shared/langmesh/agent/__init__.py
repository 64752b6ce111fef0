"""Agents: the services that execute nodes."""

from langmesh.agent.agent import Agent
from langmesh.agent.context import TaskInfo, current

__all__ = ["Agent", "TaskInfo", "current"]
