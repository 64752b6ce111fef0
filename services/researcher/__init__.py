"""Researcher: finds the passages of the corpus that answer a sub-question."""
