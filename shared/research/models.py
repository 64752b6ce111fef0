"""The chat model that planner, writer and reviewer use when ``LANGMESH_MODEL`` names one.

The value is what ``langchain.chat_models.init_chat_model`` takes, such as ``anthropic:MODEL``, or
``python:MODULE:ATTRIBUTE`` for a function of one's own that takes nothing and returns a chat model.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage

from langmesh import current, settings
from langmesh.errors import ErrorCode, MeshError

_OWN = "python:"
_OPENINGS_MAX = 100
"""Brackets of a reply that are tried as the start of its JSON."""


async def chat_model() -> BaseChatModel | None:
    """The configured model, loaded once per process, or None when none is configured.

    Raises:
        MeshError: DEPENDENCY_MISSING naming the package to install; INVALID_SETTING if the value
            names no model.
    """
    try:
        name = current().config.model
    except MeshError:
        name = settings.load().model  # outside of the mesh
    # Importing a provider's client takes seconds; the event loop must not wait for it.
    return await asyncio.to_thread(_load, name) if name else None


async def ask(model: BaseChatModel, instruction: str, material: str) -> str:
    """One exchange with the model: what to do, and what to do it with."""
    reply = await model.ainvoke([SystemMessage(instruction), HumanMessage(material)])
    return str(reply.text).strip()


def first_json(reply: str) -> Any:
    """The first JSON object or array in a reply, whatever surrounds it; None if there is none."""
    decoder = json.JSONDecoder()
    for opening in islice(re.finditer(r"[{\[]", reply), _OPENINGS_MAX):
        try:
            return decoder.raw_decode(reply, opening.start())[0]
        except json.JSONDecodeError:
            continue
        except RecursionError:  # nested beyond all sense: no part of it is an answer
            return None
    return None


@lru_cache(maxsize=4)
def _load(name: str) -> BaseChatModel:
    try:
        model = _from_factory(name) if name.startswith(_OWN) else _from_langchain(name)
    except ImportError as exc:
        raise MeshError(
            ErrorCode.DEPENDENCY_MISSING,
            f"LANGMESH_MODEL={name!r} needs a package that is not installed: {exc}",
            remedy="Install `langchain` and the provider's package (`langchain-<provider>`) where "
            "planner, writer and reviewer run, or unset LANGMESH_MODEL.",
        ) from exc
    except (AttributeError, TypeError, ValueError) as exc:
        raise _no_model(name, str(exc)) from exc
    if not isinstance(model, BaseChatModel):
        raise _no_model(name, f"it gave a {type(model).__name__}, not a chat model")
    return model


def _from_factory(name: str) -> Any:
    module, _, attribute = name.removeprefix(_OWN).partition(":")
    return getattr(import_module(module), attribute)()


def _from_langchain(name: str) -> Any:
    return import_module("langchain.chat_models").init_chat_model(name)


def _no_model(name: str, reason: str) -> MeshError:
    return MeshError(
        ErrorCode.INVALID_SETTING,
        f"LANGMESH_MODEL={name!r}: {reason}",
        remedy="Use PROVIDER:MODEL as init_chat_model takes it, or python:MODULE:ATTRIBUTE.",
    )
