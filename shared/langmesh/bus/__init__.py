"""NATS as the mesh uses it; the only package that imports the NATS client.

``client`` connects and publishes with acknowledgement, ``pull`` consumes work queues, ``tail``
follows a stream in order, ``reading`` reads what it keeps, ``streams`` creates what
``langmesh.wire.streams`` declares, ``blobs`` keeps large values, and ``service`` answers requests.
"""

from langmesh.bus.acks import Conflict, Delivered, SlotTaken
from langmesh.bus.client import Bus, connect

__all__ = ["Bus", "Conflict", "Delivered", "SlotTaken", "connect"]
