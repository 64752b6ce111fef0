"""An agent that dies at one point: ``CRASH=slot:<n>:before|after`` or ``ack:<n>:before``.

``slot``: the outcome of its n-th task is not written, or written and not acknowledged to the agent;
``ack``: the task's outcome is durable, and the broker does not hear that the task is done.
"""

import os
import sys

from langmesh.bus.client import Bus
from langmesh.bus.pull import Delivery

KIND, COUNT, WHEN = os.environ.pop("CRASH").split(":")
_left = int(COUNT)
_register = Bus._register
_ack = Delivery.ack


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


def ack(self) -> None:
    if _is_there("ack"):
        _die()
    _ack(self)


Bus._register = register
Delivery.ack = ack

if __name__ == "__main__":
    from langmesh.agent.host import serve_nodes

    serve_nodes(sys.argv[1], sys.argv[2:])
