"""The checker finds what cannot be: histories that are tampered with do not pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from langmesh.wire.messages import RunEnded, RunInterrupted, RunStarted, TaskEnded
from tests.durability.history import History, problems

IDS = {"run_id": "r", "thread_id": "t", "time": ""}


def ended(seq: int, task: str) -> TaskEnded:
    return TaskEnded(seq=seq, **IDS, task_id=task, node="n", superstep=1, status="ok")


SOUND = History(
    events=[
        RunStarted(seq=1, **IDS, graph="g", revision="v", coordinator="c"),
        ended(2, "a"),
        ended(3, "b"),
        RunEnded(seq=4, **IDS, status="success"),
    ],
    applied=["a", "b"],
    parents=[("1", ""), ("2", "1"), ("3", "2")],
    epochs=[5, 5, 7],
    writers=["a", "a", "b"],
    slots=["s.a", "s.b"],
)


def test_a_sound_history_passes() -> None:
    assert problems(SOUND) == []


@pytest.mark.parametrize(
    ("invariant", "tamper"),
    [
        ("I11", lambda h: {"events": [*h.events[:1], *h.events[2:]]}),
        ("I11", lambda h: {"events": h.events[:-1]}),
        ("I11", lambda h: {"events": [*h.events, another_end(5)]}),
        ("I11", lambda h: {"events": [*h.events, ended(5, "c")], "applied": ["a", "b", "c"]}),
        ("I4", lambda h: {"applied": ["a", "b", "b"]}),
        ("I4", lambda h: {"applied": ["a"]}),
        ("I4", lambda h: {"applied": ["a", "b", "unheard"]}),
        ("I4", lambda h: {"events": [h.events[0], ended(2, "a"), ended(3, "a"), h.events[3]]}),
        ("I2", lambda h: {"parents": [("1", ""), ("2", "1"), ("3", "1")]}),
        ("I2", lambda h: {"parents": [("2", "1"), ("3", "2")]}),
        ("I8", lambda h: {"epochs": [5, 7, 5]}),
        ("I5", lambda h: {"slots": ["s.a", "s.a"]}),
        ("gates", lambda h: {"events": [asked(1), *h.events[1:]]}),
    ],
)
def test_a_history_that_cannot_be_does_not_pass(
    invariant: str, tamper: Callable[[History], dict]
) -> None:
    found = problems(dataclasses.replace(SOUND, **tamper(SOUND)))
    assert any(each.startswith(invariant) for each in found), found


def test_a_gate_that_was_skipped_is_found() -> None:
    assert any(each.startswith("gates") for each in problems(SOUND, interrupts=1))


def another_end(seq: int) -> RunEnded:
    return RunEnded(seq=seq, **IDS, status="success")


def asked(seq: int) -> RunInterrupted:
    return RunInterrupted(seq=seq, **IDS, interrupts=[], next=["n"])
