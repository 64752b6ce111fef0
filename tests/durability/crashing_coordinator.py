"""A coordinator that dies at one point: ``CRASH=<kind>:<n>:before|after`` an append or an ack.

``kind`` is that of the subject (``log``, ``exec``, ``event``, ``active``), or ``ack`` for what goes
back to the broker for a submission. ``before``: the message is not sent; ``after``: it is stored.
"""

import os
import sys

from langmesh.bus.client import Bus
from langmesh.bus.pull import Delivery
from tests.integration import impatient_coordinator  # noqa: F401  changes what is imported below

KIND, COUNT, WHEN = os.environ.pop("CRASH").split(":")
_left = int(COUNT)
_register = Bus._register
_remove = Delivery.remove


def _is_there(kind: str) -> bool:
    global _left
    if kind != KIND:
        return False
    _left -= 1
    return _left == 0


def _die() -> None:
    os._exit(9)


def register(self, subject, body, on_done, *args):
    if _is_there(subject.split(".")[2]):
        if WHEN == "before":
            _die()
        return _register(self, subject, body, lambda _: _die(), *args)
    return _register(self, subject, body, on_done, *args)


def remove(self) -> None:
    if _is_there("ack") and WHEN == "before":
        _die()
    _remove(self)


Bus._register = register
Delivery.remove = remove

if __name__ == "__main__":
    from langmesh.coordinator.service import Coordinator

    Coordinator(sys.argv[1:]).serve()
