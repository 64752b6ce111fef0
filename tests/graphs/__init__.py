"""Graphs for the integration tests, importable by coordinators and agents in other processes."""
