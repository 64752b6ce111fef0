"""Reviewer: measures how much of the question a draft covers and asks for more, or accepts."""
