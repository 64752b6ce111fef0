"""Settings of a process, read once from the environment into a frozen struct.

Names follow the vendors' where they exist (``NATS_URL``, ``ETCD_ENDPOINTS``, ``OTEL_*``);
everything else starts with ``LANGMESH_`` and an unknown one is an error, so that a misspelt setting
never goes unnoticed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from langmesh.errors import ErrorCode, MeshError


def _setting(env: str, default: Any, parse: Callable[[str], Any], purpose: str) -> Any:
    return field(default=default, metadata={"env": env, "parse": parse, "purpose": purpose})


def _positive_int(text: str) -> int:
    if not (text.strip().isascii() and text.strip().isdigit() and int(text) >= 1):
        raise ValueError("expected a whole number of at least 1")
    return int(text)


def _ratio(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 <= (value := float(text)) <= 1.0:
            return value
    raise ValueError("expected a number from 0 to 1")


def _flag(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("expected true or false")


def _level(text: str) -> str:
    if text.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def _endpoints(text: str) -> tuple[str, ...]:
    parts = tuple(p.strip().removeprefix("http://") for p in text.split(",") if p.strip())
    for part in parts:
        host, _, port = part.rpartition(":")
        if not host or not _is_port(port):
            raise ValueError(f"expected HOST:PORT, got {part!r}")
    if not parts:
        raise ValueError("expected HOST:PORT[,HOST:PORT…]")
    return parts


PROCESS_CRASH: Final = "process-crash"
"""What is acknowledged survives the death of any process."""
POWER_LOSS: Final = "power-loss"
"""It survives the loss of a machine's power as well."""


def _nats_url(text: str) -> str:
    scheme, _, rest = text.partition("://")
    host, colon, port = rest.partition("/")[0].rpartition("@")[2].partition(":")
    if scheme not in {"nats", "tls", "ws", "wss"} or "," in text or not host:
        raise ValueError("expected nats://HOST:PORT")
    if colon and not host.startswith("[") and not _is_port(port):
        raise ValueError(f"expected nats://HOST:PORT, {port!r} is no port")
    return text


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _lifetime(text: str) -> int:
    """Seconds; 0 for ever."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip(), re.ASCII)
    if text.strip() != "0" and (found is None or not int(found[1])):
        raise ValueError("expected a duration such as 90s, 10m, 12h or 7d, or 0 for ever")
    return 0 if found is None else int(found[1]) * _UNITS[found[2]]


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65_535


def _profile(text: str) -> str:
    if text not in {PROCESS_CRASH, POWER_LOSS}:
        raise ValueError(f"expected {PROCESS_CRASH} or {POWER_LOSS}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a langmesh process takes from its environment."""

    nats_url: str = _setting(
        "NATS_URL", "nats://127.0.0.1:4222", _nats_url, "nats-server to connect to"
    )
    etcd_endpoints: tuple[str, ...] = _setting(
        "ETCD_ENDPOINTS",
        ("127.0.0.1:2379",),
        _endpoints,
        "etcd members, HOST:PORT, comma-separated",
    )
    otlp_endpoint: str = _setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT", "", str, "collector for spans; none when empty"
    )
    otlp_protocol: str = _setting(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", str, "grpc or http/protobuf"
    )
    tenant: str = _setting("LANGMESH_TENANT", "default", str, "tenant of this process")
    release: str = _setting("LANGMESH_RELEASE", "v1", str, "release of this agent")
    max_in_flight: int = _setting(
        "LANGMESH_MAX_IN_FLIGHT", 16, _positive_int, "tasks that an agent runs at once, per node"
    )
    max_runs: int = _setting(
        "LANGMESH_MAX_RUNS", 256, _positive_int, "runs that a coordinator drives at once"
    )
    deliveries_max: int = _setting(
        "LANGMESH_DELIVERIES_MAX", 5, _positive_int, "deliveries after which a task is poison"
    )
    threads_max: int = _setting(
        "LANGMESH_THREADS_MAX", 1_000, _positive_int, "idle threads kept in a coordinator's memory"
    )
    durability_profile: str = _setting(
        "LANGMESH_DURABILITY_PROFILE",
        "process-crash",
        _profile,
        "what survives: process-crash or power-loss",
    )
    replicas: int = _setting(
        "LANGMESH_REPLICAS", 1, _positive_int, "copies of each stream, in a cluster of nats-servers"
    )
    keep_threads: int = _setting(
        "LANGMESH_KEEP_THREADS", 0, _lifetime, "how long an idle thread is kept; 0 for ever"
    )
    keep_unnamed_threads: int = _setting(
        "LANGMESH_KEEP_UNNAMED_THREADS",
        7 * 86_400,
        _lifetime,
        "the same of threads whose submissions named none",
    )
    keep_history: int = _setting(
        "LANGMESH_KEEP_HISTORY",
        0,
        _lifetime,
        "how long an idle thread keeps more than its latest checkpoint",
    )
    keep_events: int = _setting(
        "LANGMESH_KEEP_EVENTS", 7 * 86_400, _lifetime, "how long events are kept"
    )
    keep_chunks: int = _setting(
        "LANGMESH_KEEP_CHUNKS", 3_600, _lifetime, "how long tokens and custom output are kept"
    )
    keep_slots: int = _setting(
        "LANGMESH_KEEP_SLOTS",
        86_400,
        _lifetime,
        "how long outcomes are kept: longer than a task takes with all its retries",
    )
    keep_dead: int = _setting(
        "LANGMESH_KEEP_DEAD", 30 * 86_400, _lifetime, "how long dead letters are kept"
    )
    sample_ratio: float = _setting(
        "LANGMESH_SAMPLE_RATIO", 1.0, _ratio, "share of runs that are traced"
    )
    log_level: str = _setting("LANGMESH_LOG_LEVEL", "INFO", _level, "lowest level that is logged")
    record_content: bool = _setting(
        "LANGMESH_RECORD_CONTENT", False, _flag, "put inputs and outputs on spans"
    )
    model: str = _setting(
        "LANGMESH_MODEL", "", str, "chat model for the sample agents, as init_chat_model takes it"
    )
    config_file: str = _setting(
        "LANGMESH_CONFIG_FILE", "", str, "JSON or TOML file of policies, under those in etcd"
    )
    corpus: str = _setting("LANGMESH_CORPUS", "", str, "folder that the sample researcher reads")
    home: str = _setting("LANGMESH_HOME", ".mesh", str, "folder of the local stack's state")


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Raises:
        MeshError: INVALID_SETTING naming the variable, its value and what it takes.
    """
    environ = os.environ if environ is None else environ
    known = {f.metadata["env"]: f for f in fields(Settings)}
    for name in environ:
        if name.startswith("LANGMESH_") and name not in known:
            raise MeshError(
                ErrorCode.INVALID_SETTING,
                f"{name} is not a setting",
                remedy=f"Known settings: {', '.join(sorted(known))}.",
            )
    values: dict[str, Any] = {}
    for name, spec in known.items():
        text = environ.get(name)
        if text is None or (text == "" and spec.default != ""):
            continue
        try:
            values[spec.name] = spec.metadata["parse"](text)
        except ValueError as exc:
            raise MeshError(
                ErrorCode.INVALID_SETTING, f"{name}={text!r}: {exc}", remedy="Correct or unset it."
            ) from exc
    if values.get("otlp_protocol", "grpc") not in {"grpc", "http/protobuf"}:
        raise MeshError(
            ErrorCode.INVALID_SETTING,
            f"OTEL_EXPORTER_OTLP_PROTOCOL={values['otlp_protocol']!r}:"
            " expected grpc or http/protobuf",
            remedy="Correct or unset it.",
        )
    return Settings(**values)
