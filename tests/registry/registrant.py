"""Registers a key and lives until it is killed: ``registrant.py ENDPOINT KEY``."""

import asyncio
import sys

from langmesh.registry.etcd import Etcd
from langmesh.registry.lease import Registration


async def main(endpoint: str, key: str) -> None:
    async with Etcd([endpoint]) as etcd, Registration(etcd, {key: b"alive"}) as registration:
        await registration.wait_up()
        print("registered", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
