"""Node bodies named by reference, imported by whoever runs them and by nobody else.

A coordinator imports every graph that it drives. With ``lazy`` it does so without the packages that
the nodes' own code needs; those are installed where the node's agent runs.
"""

from __future__ import annotations

import asyncio
import re
from importlib import import_module
from typing import Any, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import StateGraph

from langmesh.errors import ErrorCode, MeshError

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def lazy(ref: str) -> Lazy:
    """Name a node body that is imported when it first runs.

    Args:
        ref: ``"module:attribute"``; the attribute may be dotted. It may name whatever ``add_node``
            takes: a sync or async function, a callable object, a runnable, a compiled graph.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED if ``ref`` is not of that form. A module that cannot be
            imported shows when the node runs, not here.
    """
    return Lazy(ref)


def lazy_body(runnable: object) -> Lazy | None:
    """The body that a node of a graph was given by reference; None for any other."""
    body = getattr(runnable, "afunc", None)
    return body if isinstance(body, Lazy) else None


class Lazy:
    """A node body by reference; two are equal when their references are.

    LangGraph sees an async function of the state, so the graph runs by ``ainvoke`` and ``astream``.
    What LangGraph reads off a function's annotations (``Command[Literal[...]]``, a narrower input)
    is out of its sight: pass ``destinations=`` and ``input_schema=`` to ``add_node`` instead.
    """

    def __init__(self, ref: str) -> None:
        if _REFERENCE.fullmatch(ref) is None:
            raise MeshError(
                ErrorCode.GRAPH_IMPORT_FAILED, f"lazy({ref!r}): expected 'module:attribute'"
            )
        self.ref = ref
        # add_node(lazy(...)) without a name calls the node as it would call the function.
        self.__name__ = ref.rpartition(":")[2].rpartition(".")[2]
        self._runnable: Runnable[Any, Any] | None = None

    async def __call__(self, state: Any, config: RunnableConfig) -> Any:
        """Run the node body as LangGraph runs a node that was given the body itself.

        Raises:
            MeshError: GRAPH_IMPORT_FAILED as ``resolve`` raises it.
        """
        if self._runnable is None:
            # A first import takes seconds where it pulls in numpy or a model's client.
            self._runnable = await asyncio.to_thread(self._as_runnable)
        return await self._runnable.ainvoke(state, config)

    def resolve(self) -> Any:
        """Import the module and return the named attribute.

        Raises:
            MeshError: GRAPH_IMPORT_FAILED naming the module, the attribute and the reason.
        """
        module_name, _, path = self.ref.partition(":")
        try:
            target: Any = import_module(module_name)
        except MeshError:
            raise
        except Exception as exc:  # a module's top level may raise anything
            raise self._failure(f"importing it raised {type(exc).__name__}: {exc}") from exc
        for name in path.split("."):
            try:
                target = getattr(target, name)
            except AttributeError as exc:
                raise self._failure(str(exc)) from exc
        if not callable(target) and not isinstance(target, Runnable):
            raise self._failure(f"it is a {type(target).__name__}, which no node can run")
        return target

    def _as_runnable(self) -> Runnable[Any, Any]:
        # The wrapper that add_node makes decides what is injected (config, runtime, store, …), runs
        # sync code in a thread with the context copied, and consumes generators. Borrowing it from
        # a scratch graph keeps those rules LangGraph's own, in every version.
        scratch = StateGraph[Any, None, Any, Any](dict)
        scratch.add_node(self.__name__, self.resolve(), input_schema=dict)
        return cast("Runnable[Any, Any]", scratch.nodes[self.__name__].runnable)

    def _failure(self, reason: str) -> MeshError:
        module, _, attribute = self.ref.partition(":")
        return MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED,
            f"cannot load {attribute!r} from module {module!r}: {reason}",
            remedy="Correct it, or install what the module imports where the node's agent runs.",
        )

    def __repr__(self) -> str:
        return f"lazy({self.ref!r})"

    def __eq__(self, other: object) -> bool:
        return self.ref == other.ref if isinstance(other, Lazy) else NotImplemented

    def __hash__(self) -> int:
        return hash((Lazy, self.ref))
