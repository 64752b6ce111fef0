"""JSON log lines: they always parse, they carry the ids of the current span, they never raise."""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.settings import Settings
from langmesh.telemetry import logs
from langmesh.telemetry.logs import JsonFormatter
from langmesh.telemetry.tracing import setup

LOG = logging.getLogger("node")


class Console:
    """What a process writes to stderr once its logs are configured."""

    def __init__(self, monkeypatch) -> None:
        self._monkeypatch = monkeypatch
        self._stderr = io.StringIO()

    def configure(self, service: str, level: str) -> None:
        # pytest puts its own stderr back before each phase of a test.
        self._monkeypatch.setattr(sys, "stderr", self._stderr)
        logs.configure(service, f"{service}-1", level)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self._stderr.getvalue().splitlines()]


@pytest.fixture
def console(monkeypatch):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    console = Console(monkeypatch)
    console.configure("planner", "INFO")
    yield console
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_has_the_documented_keys(console):
    LOG.info("took %d ms", 5, extra={"run_id": "r1", "thread_id": "t1"})
    (line,) = console.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "INFO",
        "service": "planner",
        "instance": "planner-1",
        "logger": "node",
        "message": "took 5 ms",
        "run_id": "r1",
        "thread_id": "t1",
    }


def test_a_line_carries_the_ids_of_the_current_span(console):
    tracer = setup(Settings(), service="s", instance="i", version="v").tracer
    span = tracer.start("x")
    with span.activate():
        LOG.warning("inside")
    LOG.warning("outside")
    inside, outside = console.lines()
    assert (inside["trace_id"], inside["span_id"]) == (span.trace_id, span.span_id)
    assert "trace_id" not in outside


def test_an_exception_is_one_field(console):
    try:
        raise ValueError("no such city")  # noqa: TRY301
    except ValueError:
        LOG.exception("failed")
    (line,) = console.lines()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: no such city")


def test_configuring_again_replaces_and_the_level_counts(console):
    console.configure("other", "WARNING")
    LOG.info("quiet")
    LOG.warning("loud")
    (line,) = console.lines()
    assert (line["service"], line["message"]) == ("other", "loud")


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_nothing_that_is_logged_raises_or_loses_the_line(console):
    # Outside the tree of loggers, because pytest's handlers raise on what ours must survive.
    log = logging.Logger("odd")  # noqa: LOG001
    log.addHandler(
        next(h for h in logging.getLogger().handlers if type(h.formatter) is JsonFormatter)
    )
    log.info("%d", "not a number")
    log.info("%s", Hostile())
    log.info(Hostile())
    log.info("lone \ud800 surrogate\nand a newline")
    log.info("x" * 1_000_000)
    log.info("extra", extra={"o": Hostile(), "nan": float("nan"), "b": b"\xff", "service": "fake"})
    try:
        raise HostileError  # noqa: TRY301
    except HostileError:
        log.exception("hostile")
    found = console.lines()
    assert len(found) == 7
    assert found[3]["message"] == "lone \ud800 surrogate\nand a newline"
    assert len(found[4]["message"]) == logs.TEXT_CHARS_MAX
    assert (found[5]["service"], found[5]["nan"]) == ("planner", "nan")
    assert "exception" in found[6]


@given(st.text(), st.dictionaries(st.text(), st.one_of(st.text(), st.floats(), st.binary())))
def test_every_record_is_one_json_line(message, extra):
    record = logging.LogRecord("n", logging.INFO, "", 0, message, (), None)
    for key, value in extra.items():
        vars(record).setdefault(key, value)
    line = JsonFormatter("s", "i").format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == message
