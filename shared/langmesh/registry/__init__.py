"""The registry: what is registered and what is configured, kept in etcd.

``etcd`` is the client, ``watch`` follows a prefix without gaps, ``view`` keeps a decoded map of
one, ``lease`` keeps keys present while a process lives. ``keys`` builds every key, ``records``
declares the documents, ``capability`` holds the coordinators' shared secret. ``transport`` and
``model`` are underneath.

Nothing here is bound to a particular event loop: an :class:`~langmesh.registry.etcd.Etcd` belongs
to the loop that opened it, and a process may open one per thread.
"""
