"""Tell the supervisor that a service is ready, by the protocol of systemd's ``sd_notify(3)``.

A datagram of ``KEY=value`` lines goes to the Unix socket that ``NOTIFY_SOCKET`` names; without one
nothing happens. It works alike under ``langmesh up`` and as a systemd unit of ``Type=notify``.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

INSTANCE_KEY = "X_LANGMESH_INSTANCE"
SERVICE_KEY = "X_LANGMESH_SERVICE"


def notify(state: str, *, service: str, instance: str) -> None:
    """Send a state, ``READY=1`` or ``STOPPING=1``; a supervisor that is gone is not missed."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    lines = (
        state,
        f"MAINPID={os.getpid()}",
        f"{SERVICE_KEY}={service}",
        f"{INSTANCE_KEY}={instance}",
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            # systemd writes the name of an abstract socket with a leading @.
            sender.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
    except OSError as exc:
        log.debug("notify %s: %s", address, exc)
