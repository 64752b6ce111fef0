"""The coordinator: admits submissions, drives runs with LangGraph's own loop, dispatches tasks.

``catalog`` knows the published graphs and who serves their nodes, ``admission`` turns submissions
into runs, ``live`` has those that are driven here, ``run`` drives one, ``tasks`` and ``dispatch``
carry its tasks through the mesh, ``events`` tells clients, ``rpc`` answers them, and ``caps``
computes the identifiers that all of it hangs on. ``threads`` opens the logs, ``runlog`` and
``saver`` write to them, ``journal`` says how runs stand, ``recovery`` and ``revival`` go on with
those of the owner before, which ``mark`` tells. ``ownership`` shares partitions between
coordinators, ``dealing`` and ``peers`` bring each submission to its owner, and ``tidying`` removes
what is kept no longer.
"""
