"""The research graph, run in process by LangGraph itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from research.graph import graph
from research.state import Answer

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGMESH_MODEL", raising=False)
    monkeypatch.delenv("LANGMESH_CORPUS", raising=False)


@pytest.fixture
def run() -> Run:
    """Answer a question; gives the answer and each node's update in the order they came."""

    async def answer(question: str, **options: Any) -> tuple[Answer, list[tuple[str, Any]]]:
        updates: list[tuple[str, Any]] = []
        output: Any = None
        modes = ["updates", "values"]
        async for mode, data in graph.compile().astream(
            {"question": question}, stream_mode=modes, **options
        ):
            if mode == "updates":
                updates.extend(data.items())
            else:
                output = data
        return {key: output[key] for key in Answer.__annotations__}, updates

    return answer


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the researcher reads."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    monkeypatch.setenv("LANGMESH_CORPUS", str(folder))
    return folder
