"""Long-term memory for graphs: LangGraph's ``BaseStore`` on NATS JetStream.

``store`` has the class, ``writing`` changes single keys, ``replica``, ``replicas`` and ``tree``
answer searches from memory, ``watching`` tells changes, ``indexing`` and ``ranking`` search by
similarity, ``values`` and ``matching`` say what is allowed and what fits, and ``entries`` reads the
stream's messages.
"""

from langmesh.store.entries import FoundItem, StoredItem
from langmesh.store.store import NatsStore
from langmesh.store.watching import Change, Changes

__all__ = ["Change", "Changes", "FoundItem", "NatsStore", "StoredItem"]
