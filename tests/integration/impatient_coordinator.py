"""A coordinator whose submissions go to the next one two seconds after its death, not thirty."""

import dataclasses
import sys

from langmesh.wire import streams

streams.SUBMIT_CONSUMER = dataclasses.replace(streams.SUBMIT_CONSUMER, ack_wait_s=2.0)

if __name__ == "__main__":
    # Only now, since it takes the declaration over when it is imported.
    from langmesh.coordinator.service import Coordinator

    Coordinator(sys.argv[1:]).serve()
