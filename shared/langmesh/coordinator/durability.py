"""Which durability profile the mesh runs in, as far as a client of the broker can tell."""

from __future__ import annotations

from typing import Final

from langmesh.bus import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import POWER_LOSS, Settings
from langmesh.wire.streams import LOG

_REPLICAS_MIN: Final = 3


async def profile(bus: Bus, settings: Settings) -> str:
    """The profile in words, with what it rests on.

    A broker does not tell its clients how it syncs, so that ``sync_interval: always`` is taken on
    trust; how many copies there are of a stream is looked at.

    Raises:
        MeshError: INVALID_SETTING if the streams contradict the profile.
    """
    config = (await bus.api(f"STREAM.INFO.{LOG.name}")).get("config", {})
    copies = int(config.get("num_replicas", 1))
    if settings.durability_profile != POWER_LOSS:
        return f"{settings.durability_profile}, {_copies(copies)}, the broker syncs now and then"
    if bus.clustered and copies < _REPLICAS_MIN:
        raise MeshError(
            ErrorCode.INVALID_SETTING,
            f"LANGMESH_DURABILITY_PROFILE={POWER_LOSS!r}: stream {LOG.name} has {_copies(copies)}"
            f" in a cluster, and needs {_REPLICAS_MIN}",
            remedy="Set LANGMESH_REPLICAS=3 before the streams are made, or raise their replicas"
            " with `nats stream edit`.",
        )
    return f"{POWER_LOSS}, {_copies(copies)}, with sync_interval: always as is declared"


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count} copies"
