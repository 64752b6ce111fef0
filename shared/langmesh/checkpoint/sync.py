"""The saver's methods without ``a``: for threads other than that of the saver's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from langmesh.errors import ErrorCode, MeshError

T = TypeVar("T")


class SyncMethods(BaseCheckpointSaver[str]):
    """Runs each method's asynchronous twin in the saver's event loop and waits for it.

    Every method raises what its twin raises, and NOT_RUNNING in the thread of the event loop, which
    would wait for itself, or when the loop has ended.
    """

    _loop: asyncio.AbstractEventLoop

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See ``aget_tuple``."""
        return self._wait(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  LangGraph's word
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See ``alist``."""
        found = self.alist(config, filter=filter, before=before, limit=limit)
        while (one := self._wait(_next(found))) is not None:
            yield one

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See ``aput``."""
        return self._wait(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """See ``aput_writes``."""
        self._wait(self.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """See ``adelete_thread``."""
        self._wait(self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See ``adelete_for_runs``."""
        self._wait(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See ``acopy_thread``."""
        self._wait(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See ``aprune``."""
        self._wait(self.aprune(thread_ids, strategy=strategy))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See ``aget_delta_channel_history``."""
        return self._wait(self.aget_delta_channel_history(config=config, channels=channels))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        problem, remedy = "", ""
        if not self._loop.is_running():
            problem = "has ended"
            remedy = "Use the saver while its `async with` block runs."
        else:
            try:
                if asyncio.get_running_loop() is self._loop:
                    problem = "would wait for itself"
                    remedy = "Use the methods with `a` there: `await graph.ainvoke(…)`."
            except RuntimeError:
                pass
        if problem:
            work.close()
            raise MeshError(
                ErrorCode.NOT_RUNNING, f"the event loop of NatsSaver {problem}", remedy=remedy
            )
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _next(found: AsyncIterator[CheckpointTuple]) -> CheckpointTuple | None:
    return await anext(found, None)
