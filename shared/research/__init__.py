"""The sample graph: a question is planned, researched in parallel, written up and reviewed.

``graph`` holds the topology, ``state`` the types that cross between the nodes; ``text`` and
``models`` are what more than one of the nodes needs. The nodes' own code lives in ``services``.
"""
