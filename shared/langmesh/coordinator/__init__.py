"""The coordinator: admits submissions, drives runs with LangGraph's own loop, dispatches tasks.

``catalog`` knows the published graphs and who serves their nodes, ``admission`` turns submissions
into runs, ``run`` drives one, ``dispatch`` carries its tasks through the mesh, ``events`` tells
clients, ``rpc`` answers them, and ``caps`` computes the identifiers that all of it hangs on.
"""
