"""A coordinator that believes to own everything, whatever etcd says: the lease check is off."""

import contextlib
import sys
import time

from langmesh.coordinator.ownership import Ownership, _Held
from langmesh.wire.names import PARTITIONS
from tests.integration import impatient_coordinator  # noqa: F401  changes what is imported below


@contextlib.asynccontextmanager
async def run(self, *, on_gained, on_lost):
    """Own all partitions with an epoch that is greater than that of whoever came before."""
    epoch = time.time_ns()
    everything = frozenset(range(PARTITIONS))
    await on_gained(everything)
    self._held = dict.fromkeys(everything, _Held(epoch, epoch))
    self._balanced.set()
    self._notify()
    try:
        yield self
    finally:
        self._held = {}
        await on_lost(everything)


Ownership.run = run

if __name__ == "__main__":
    from langmesh.coordinator.service import Coordinator

    Coordinator(sys.argv[1:]).serve()
