"""The durable history of threads: one chain of entries per thread and namespace in stream LOG.

``chain`` makes and verifies links, ``state`` folds them to what a thread is; ``thread`` is one
chain in memory, read by ``scan`` and written by ``outbox``; ``logs`` keeps the chains of a process,
and ``values`` what is too large for them.
"""

from langmesh.log.chain import BrokenChain, Chain, Tail
from langmesh.log.flight import Overtaken
from langmesh.log.logs import Logs
from langmesh.log.state import PendingWrite, ThreadState
from langmesh.log.thread import Fenced, ThreadLog

__all__ = [
    "BrokenChain",
    "Chain",
    "Fenced",
    "Logs",
    "Overtaken",
    "PendingWrite",
    "Tail",
    "ThreadLog",
    "ThreadState",
]
