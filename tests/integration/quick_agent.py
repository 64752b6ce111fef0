"""An agent that reports its load ten times a second: ``python quick_agent.py GRAPH NODE``."""

import sys

from langmesh.agent.host import NodePlace, hosting
from langmesh.service import Service, run_service

graph, node = sys.argv[1:]


async def main(service: Service) -> None:
    places = [NodePlace(graph=graph, node=node, capabilities=["quick"])]
    async with hosting(service, places, load_interval_s=0.1):
        await service.stop.wait()


run_service(node, main)
