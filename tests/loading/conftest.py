"""What a test imports is gone after it."""

import sys

import pytest

from langmesh.graphs import sources


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch):
    """What a test imports and puts on sys.path is gone after it."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sources, "_appended", set())
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
