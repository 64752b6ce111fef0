"""The generic agent service: hosts any node of any published graph."""
