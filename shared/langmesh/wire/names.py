"""Names as subject tokens: plain where they can be, reversibly encoded where they cannot.

A token matches ``^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$``. Any other name is written ``x--`` followed by
its UTF-8 bytes in lower-case base32hex (RFC 4648 §7) without padding, so that user text can never
bring a dot, a wildcard or a control character into a subject.
"""

from __future__ import annotations

import base64
import re
import zlib

from langmesh.errors import ErrorCode, MeshError

TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
NAME_BYTES_MAX = 100
PARTITIONS = 256

_PREFIX = "x--"
_ENCODED = re.compile(r"x--[0-9a-v]{1,160}\Z")


def to_token(name: str, *, field: str) -> str:
    """Return the subject token of a name.

    Args:
        name: Any text of 1 to 100 UTF-8 bytes.
        field: What the name is, for the error message.

    Raises:
        MeshError: INVALID_NAME for an empty or too long name.
    """
    if TOKEN.match(name) and not name.startswith(_PREFIX):
        return name
    raw = name.encode("utf-8", "surrogatepass")
    if not raw:
        raise MeshError(ErrorCode.INVALID_NAME, f"{field}: the name is empty")
    if len(raw) > NAME_BYTES_MAX:
        raise MeshError(
            ErrorCode.INVALID_NAME,
            f"{field}: {name[:40]!r}… has {len(raw)} bytes, more than {NAME_BYTES_MAX}",
        )
    return _PREFIX + base64.b32hexencode(raw).decode().rstrip("=").lower()


def from_token(token: str) -> str:
    """Return the name behind a token; the inverse of :func:`to_token`.

    Raises:
        MeshError: INVALID_NAME if the text is not a token that :func:`to_token` makes.
    """
    if not token.startswith(_PREFIX):
        if TOKEN.match(token):
            return token
        raise MeshError(ErrorCode.INVALID_NAME, f"{token[:80]!r} is not a subject token")
    if _ENCODED.match(token):
        digits = token[len(_PREFIX) :].upper()
        try:
            name = base64.b32hexdecode(digits + "=" * (-len(digits) % 8)).decode(
                "utf-8", "surrogatepass"
            )
            if to_token(name, field="token") == token:
                return name
        except (ValueError, MeshError):
            pass
    raise MeshError(ErrorCode.INVALID_NAME, f"{token[:80]!r} is not an encoded subject token")


def partition(tenant: str, thread: str) -> int:
    """The partition (0–255) that owns a thread: CRC-32 of tenant, NUL, thread, modulo 256."""
    return zlib.crc32(f"{tenant}\0{thread}".encode("utf-8", "surrogatepass")) % PARTITIONS
