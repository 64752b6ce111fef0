"""Graphs: how their code is named, and how their topology is read and driven."""
