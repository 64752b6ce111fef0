"""W3C trace context, with OpenTelemetry's own propagator as the oracle."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from langmesh.telemetry.tracecontext import TraceContext, parse

hexes = st.sampled_from("0123456789abcdef")


def digits(count: int):
    return st.text(hexes, min_size=count, max_size=count)


nearly_valid = st.builds(
    "-".join,
    st.tuples(
        st.one_of(st.sampled_from(["00", "01", "ff"]), digits(2)),
        st.one_of(digits(32), st.just("0" * 32), digits(31)),
        st.one_of(
            digits(16), st.just("0" * 16), st.text(string.hexdigits, min_size=16, max_size=16)
        ),
        digits(2),
    ),
)


def oracle(text: str) -> TraceContext | None:
    context = TraceContextTextMapPropagator().extract({"traceparent": text})
    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return None
    return TraceContext(f"{span.trace_id:032x}", f"{span.span_id:016x}", span.trace_flags.sampled)


@given(
    st.one_of(nearly_valid, st.builds(lambda t, rest: t + rest, nearly_valid, st.text(max_size=4)))
)
@example("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra")
@example("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra")
def test_parsing_agrees_with_opentelemetry(text):
    assert parse(text) == oracle(text)


@given(digits(32), digits(16), st.booleans())
def test_what_is_formatted_parses_back(trace_id, span_id, sampled):
    context = TraceContext(trace_id, span_id, sampled)
    valid = int(trace_id, 16) > 0 and int(span_id, 16) > 0
    assert parse(context.traceparent) == (context if valid else None)


@given(st.text())
def test_no_text_is_an_error(text):
    parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
        "٠٠-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_what_the_standard_forbids_is_no_context(text):
    assert parse(text) is None
