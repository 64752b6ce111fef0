"""Starts programs while connected to etcd and prints their exit codes: ``spawner.py ENDPOINT``."""

import asyncio
import collections
import sys

import uvloop

from langmesh.registry.etcd import Etcd
from langmesh.registry.view import View


async def main(endpoint: str) -> None:
    codes: collections.Counter[int] = collections.Counter()
    # Children are the matter here, not how soon a busy machine answers.
    async with (
        Etcd([endpoint], timeout_s=60) as etcd,
        View(etcd, "/x/", lambda _, value: value) as view,
    ):
        await view.wait_ready()
        for _ in range(200):
            program = await asyncio.create_subprocess_exec("true")
            codes[await program.wait()] += 1
            await etcd.put("/x/y", b"")
    print(dict(codes))


uvloop.run(main(*sys.argv[1:]))
