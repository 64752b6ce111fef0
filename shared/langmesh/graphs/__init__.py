"""LangGraph graphs as the mesh sees them: loading, topology, tasks that cross processes.

``compat`` holds every private name of LangGraph, ``loading`` finds and compiles graphs,
``topology`` describes them without LangGraph, ``serde`` encodes values, ``remote`` is the
coordinator's side of a task and ``local`` the agent's. ``lazy`` names a node body that only its
agent imports.
"""
