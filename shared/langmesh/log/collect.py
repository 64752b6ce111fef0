"""Delete large values that no thread refers to any more.

Rule 1: a value goes only if it is older than ``AGE_S`` and two passes in a row, the second begun
after the first has ended, found no reference to it.
Rule 2: whoever stows a value that is there already, and older than half of that, stores it once
more (``Values.put``); so what is about to be referred to is never old enough.
Rule 3: a reference is the text of a value's digest anywhere in an entry, also where this version
does not understand the entry.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Final

import msgspec

from langmesh.bus import Bus
from langmesh.bus.blobs import VALUES_BUCKET
from langmesh.bus.reading import bounds, purge, read, read_page
from langmesh.clock import since_s
from langmesh.errors import MeshError
from langmesh.log.values import AGE_S, Values
from langmesh.wire import subjects
from langmesh.wire.log import decode_entry
from langmesh.wire.streams import LOG

_STREAM: Final = f"OBJ_{VALUES_BUCKET}"
_META: Final = f"$O.{VALUES_BUCKET}.M.>"
_DIGEST: Final = re.compile(rb"[0-9a-f]{64}")


class _Meta(msgspec.Struct):
    name: str = ""
    nuid: str = ""
    size: int = 0
    mtime: str = ""
    deleted: bool = False


@dataclass(slots=True)
class Collector:
    """Remembers what the last pass found no reference to.

    Args:
        bus: The connection.
        values: Reads the values.
        age_s: How old a value has to be.
    """

    bus: Bus
    values: Values
    age_s: float = AGE_S
    _suspects: set[str] = field(default_factory=set)

    async def collect(self) -> int:
        """Make one pass; returns the bytes that were let go of.

        Raises:
            MeshError: BROKER_UNAVAILABLE; MALFORMED_BODY if an entry cannot be read at all, since
                nobody knows then what is referred to.
        """
        old = await self._old()
        if not old:
            self._suspects.clear()
            return 0
        unreferenced = old.keys() - await self._referenced()
        freed = 0
        for name in unreferenced & self._suspects:
            freed += await self._drop(old[name])
        self._suspects = unreferenced - self._suspects
        return freed

    async def _old(self) -> dict[str, _Meta]:
        """The values that are old enough, by name."""
        found: dict[str, _Meta] = {}
        start, more = 1, True
        while more:
            try:
                page, more = await read_page(self.bus, _STREAM, _META, start_seq=start)
            except MeshError:
                if start == 1 and "error" in await self.bus.api(f"STREAM.INFO.{_STREAM}"):
                    return {}  # nobody has stowed anything yet
                raise
            for message in page:
                start = message.seq + 1
                meta = msgspec.json.decode(message.body, type=_Meta)
                if not meta.deleted and since_s(meta.mtime) > self.age_s:
                    found[meta.name] = meta
        return found

    async def _referenced(self) -> set[str]:
        """Every digest that an entry has in it, or the records that it keeps elsewhere."""
        found: set[str] = set()
        _, last = await bounds(self.bus, LOG.name)
        async for message in read(self.bus, LOG.name, subjects.LOG_ALL, last=last):
            found.update(match.decode() for match in _DIGEST.findall(message.body))
            if stowed := decode_entry(message.body)[0].stowed:
                records = await self.values.get(stowed)
                found.update(match.decode() for match in _DIGEST.findall(records))
        return found

    async def _drop(self, meta: _Meta) -> int:
        name = base64.urlsafe_b64encode(meta.name.encode()).decode()
        # First the name, so that nobody finds one without its contents.
        await purge(self.bus, _STREAM, f"$O.{VALUES_BUCKET}.M.{name}")
        await purge(self.bus, _STREAM, f"$O.{VALUES_BUCKET}.C.{meta.nuid}")
        return meta.size
