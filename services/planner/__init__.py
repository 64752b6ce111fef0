"""Planner: turns a question, and what a review missed, into sub-questions."""
