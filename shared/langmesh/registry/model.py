"""What the registry's client returns, and the form of keys on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One key and its value, as of the revision at which it was read."""

    key: str
    value: bytes
    mod_revision: int
    """Revision of the last write to the key; what a compare-and-set compares."""
    create_revision: int
    """Revision at which the key appeared; rises every time it is created anew, so it serves as a
    fence."""
    lease: int
    """Lease that the key hangs on; 0 for none."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every key under a prefix at one revision: replaces whatever was known before."""

    revision: int
    entries: Mapping[str, Entry]
    cluster_id: int


@dataclass(frozen=True, slots=True)
class Change:
    """One write to one key."""

    key: str
    revision: int
    entry: Entry | None
    """None when the key was deleted."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Writes in etcd's order; with them everything up to `revision` has been seen."""

    revision: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class TxnResult:
    """The outcome of a transaction."""

    succeeded: bool
    """Whether the comparisons held."""
    revision: int
    """The store's revision after the transaction; that of its writes, if it wrote."""
    reads: tuple[Entry | None, ...]
    """What the executed branch's reads found, in order."""


def key_bytes(key: str) -> bytes:
    """The key as etcd holds it: UTF-8; foreign keys that are not survive the round trip."""
    return key.encode("utf-8", "surrogateescape")


def key_text(key: bytes) -> str:
    """The inverse of :func:`key_bytes`."""
    return key.decode("utf-8", "surrogateescape")


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all with the prefix; NUL, etcd's "no end", if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0"


def to_entry(pair: Any) -> Entry:
    """Read an ``mvccpb.KeyValue``."""
    return Entry(
        key=key_text(pair.key),
        value=pair.value,
        mod_revision=pair.mod_revision,
        create_revision=pair.create_revision,
        lease=pair.lease,
    )
