"""Deterministic chat models that LANGMESH_MODEL can name as ``python:tests.research.models:…``."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import GenericFakeChatModel, SimpleChatModel
from langchain_core.messages import AIMessage, BaseMessage


class Scripted(SimpleChatModel):
    """Replies by what the instruction asks for."""

    plan: str
    draft: str
    review: str

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        instruction = messages[0].text
        if instruction.startswith("Split"):
            return self.plan
        return self.draft if instruction.startswith("Answer") else self.review


def good() -> Scripted:
    return Scripted(
        plan='Sure:\n```json\n["what a context manager is", "how exceptions reach __exit__"]\n```',
        draft="A context manager sets up a context [2]. It may suppress an exception [1, 77][2].",
        review='Here you go: {"score": 0.95, "missing": []} Anything else?',
    )


def strict() -> Scripted:
    return good().model_copy(update={"review": '{"score": 0.1, "missing": ["an example"]}'})


def garbage() -> Scripted:
    return Scripted(
        plan='{"queries": [1, null', draft="I know without any passage.", review="[[[[ 9/10 ]"
    )


def generic() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("hello")]))


def not_a_model() -> dict[str, str]:
    return {}
