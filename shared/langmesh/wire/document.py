"""Renders docs/protocol.md from the contract's declarations: ``python -m langmesh.wire.document``.

With ``--check`` nothing is written; the exit status is 1 when the page is stale. Every example on
the page was encoded and decoded by the codec while it was rendered. The same declarations give the
same page.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from langmesh.wire import (
    codec,
    examples,
    foreign,
    items,
    log,
    messages,
    names,
    rpc,
    streams,
    subjects,
    tables,
)

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"

_SUBMIT = subjects.submit(examples.TENANT, examples.GRAPH)
_STREAM = streams.EVENT.name
_EVENTS = subjects.events_of_graph(examples.TENANT, examples.GRAPH)
_REJECT = subjects.reject(examples.TENANT, examples.GRAPH)
_WHO = (
    ("client", "[`Submission`](#submission)", "any coordinator", "SUBMIT, JSON"),
    ("client", "[requests](#requests)", "any coordinator; one answers", "–, JSON"),
    ("agent", "[`agent.register`](#registeragent)", "any coordinator", "–, JSON"),
    ("coordinator", "[events of a run](#events-of-a-run)", "clients", "EVENT, JSON"),
    ("coordinator", "[`run.rejected.v1`](#runrejectedv1)", "clients", "EVENT, JSON"),
    (
        "coordinator",
        "[`task.execute.v1`](#taskexecutev1)",
        "one agent of a node",
        "EXEC, msgpack or JSON",
    ),
    (
        "agent",
        "[`task.outcome.v1`](#taskoutcomev1)",
        "the coordinator that owns the thread",
        "SLOT, msgpack or JSON",
    ),
    ("agent", "[`chunk.v1`](#chunkv1)", "clients", "CHUNK, JSON"),
    (
        "coordinator",
        "[`control.cancel.v1`](#controlcancelv1)",
        "all agents of a node",
        "–, msgpack",
    ),
    ("coordinator", "[`dead.v1`](#deadv1)", "operators", "DEAD, JSON"),
    ("saver", "[`entry.v1`](#entryv1)", "whoever loads the thread", "LOG, msgpack"),
    ("anyone", "[items of a store](#store)", "anyone", "STORE, JSON"),
)
_PLAIN: tuple[type[Any], ...] = (
    messages.Submission,
    messages.PlainTask,
    rpc.RpcError,
    log.Entry,
    *dict.fromkeys(kind for verb in rpc.VERBS.values() for kind in (verb.request, verb.reply)),
)
"""Messages that are whole bodies though nothing in them names their type."""
_ODD_NAMES = ("résumé writer", "a.b", "x--y")

_HEAD = """\
<!-- Rendered by `python -m langmesh.wire.document` from shared/langmesh/wire; do not edit. -->

# The langmesh protocol, version 1

Everything that crosses a process boundary: subjects, streams, messages, errors. A program that
speaks NATS and JSON needs no other page to submit runs and to follow them; an agent in another
language needs the messages of the services too.

{who}
"""

_NAMES = """\
## Names and tokens

Tenants, graphs, nodes, releases, threads and runs have names; a subject holds *tokens*. A name
that matches `^{pattern}$` and does not start with `x--` is its own
token. Any other name of at most {bytes_max} bytes is written `x--` followed by its UTF-8 bytes in
base32hex (RFC 4648 §7), lower case, without padding. Empty and longer names are refused with
`invalid_name`. Bodies hold names, never tokens.

{odd}

A partition is a number from 0 to {partition_max}: the CRC-32 of tenant, a NUL byte and thread
(UTF-8), modulo {partitions}. Thread `{thread}` of tenant `{tenant}` is in partition {partition}.
Clients need no partitions.
"""

_BODIES = """\
## Bodies

- Clients send and receive **JSON**, one object per message. Values that JSON lacks are projected:
  messages and other models become objects, bytes become base64, exceptions become `"Type: text"`.
  The projection is lossy.
- Services send each other **msgpack** maps with the same field names. Whoever decodes a service's
  message takes JSON as well: a body that starts with `{{`, `[` or white space is JSON.
- A graph's values inside services' messages are [`Value`](#value) pairs; an
  [agent in another language](#agents-in-other-languages) gets and writes plain JSON.
- A body has at most {body_max:,} bytes. Graph values from {blob_min:,} bytes on travel through
  the object store.
- What a client sends nests at most {depth_max} levels deep.
- `bytes` are base64 text in JSON and binary in msgpack.
- Decoding is strict: a missing field, a wrong type or, in a submission or a request, an unknown
  field is refused with the name of the field. What cannot be decoded is answered or kept as a
  dead letter and never stops a consumer.
- Metadata is in the body. Two headers are read: `traceparent` (W3C Trace Context) on submissions
  and on the requests `run.start` and `run.resume`: the run then joins the caller's trace; and
  `{parent}` on `run.start`: the id of a run whose node waits for the new one, so that
  waiting runs take no place from those that they wait for.

## Versions

The version is in the subject (`{root}`) and in each message's `type`. Within a version a field that
is added has a default, and no field changes its type or its meaning or goes away. Readers of events
and chunks ignore fields and skip types that they do not know; only submissions and requests are
refused for unknown fields, so that a misspelt one never goes unnoticed. Anything else is a new type
(`….v2`), which is sent beside the old one until nobody reads that.
"""

_RUN = """\
## A run

```mermaid
sequenceDiagram
    participant C as client
    participant N as NATS
    participant K as coordinator
    participant A as agent
    C->>N: Submission (SUBMIT)
    N-->>C: acknowledged: submit_seq
    N->>K: Submission
    K->>N: run.accepted.v1 {submit_seq, run_id}
    Note over K: the run's start is durable, the submission is acknowledged
    K->>N: run.started.v1
    loop every superstep, its tasks in parallel
        K->>N: task.started.v1
        K->>N: task.execute.v1 (EXEC)
        N->>A: task.execute.v1
        A->>N: chunk.v1 …
        A->>N: task.outcome.v1 (SLOT), then the task is acknowledged
        N->>K: task.outcome.v1
        K->>N: task.ended.v1
        K->>N: stream.v1 …
    end
    K->>N: run.ended.v1 {status, output or error}
    N-->>C: events in order, seq contiguous from 1
```

- `task.waiting.v1` appears when nobody serves a node; the run goes on as soon as somebody does.
- `task.restarted.v1` says that an attempt failed and another follows; chunks of earlier attempts
  are void.
- `run.started.v1` with `restarted` voids every earlier event of the run but `run.accepted.v1`.
- `run.interrupted.v1` says that a human is asked. Submit `{"command": {"resume": answer}}` with
  the same `thread_id`; the thread goes on from its checkpoint.
- `run.ended.v1` is the last event, exactly one per run.
- A submission that cannot become a run is answered by `run.rejected.v1` instead, on the reject
  subject.

Delivery is at least once. Readers recognise a repeated event by `run_id` and `seq`, a repeated
chunk by `task_id`, `attempt` and `n`.
"""

_PROGRAM = f"""\
## A complete client

This program knows nothing but nats-py and this page. It subscribes before it publishes, so that
it misses nothing; it recognises its run by `submit_seq`, the sequence that acknowledged its
publish.

```python
# submit.py
import asyncio, json, os

import nats
from nats.js.api import ConsumerConfig


async def main():
    async with await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as nc:
        js, mine = nc.jetstream(), None
        answers = ["{_EVENTS}", "{_REJECT}"]
        new = ConsumerConfig(deliver_policy="new", filter_subjects=answers)
        events = await js.subscribe("", stream="{_STREAM}", config=new, ordered_consumer=True)
        task = json.dumps({{"input": {{"question": "Why NATS?"}}}}).encode()
        ack = await js.publish("{_SUBMIT}", task)
        async for message in events.messages:
            event = json.loads(message.data)
            if event.get("submit_seq") == ack.seq:
                mine = message.subject
            if message.subject == mine:
                print(json.dumps(event), flush=True)
                if event["type"] in ("run.ended.v1", "run.rejected.v1"):
                    break


asyncio.run(main())
```
"""

_REQUESTS = f"""\
## Requests

A client asks any coordinator with a NATS request on
`{subjects.ROOT}.rpc.<tenant>.<verb>` and a JSON object as its body. The answer is the verb's reply
or an [`RpcError`](#rpcerror); while no coordinator is up, NATS itself says that there are no
responders. A client that hears nothing may ask again; with ids of its own (`run_id` and
`thread_id`) a repeated `run.start` makes no second run. The coordinator is a NATS micro service
named `{rpc.SERVICE}`, so that `nats micro ls` and `nats micro stats` show it.
"""

_LOG = f"""\
## The log of a thread

The history of a thread is in stream {streams.LOG.name}: one *chain* of entries on its subject, and
one on that of each checkpoint namespace. A name of more than {names.NAME_BYTES_MAX} bytes, or one
that starts with `h--`, is `h--` and a digest in that subject; every entry says the names in full.

- **One tail.** An entry is published with `Nats-Expected-Last-Subject-Sequence`, the sequence of
  the entry that it follows, and 0 for the first. Error 10071 says that the chain ends elsewhere:
  with the same entry, if its acknowledgement was lost, which its `id` tells; else somebody wrote
  first.
- **Linked.** `previous` is the SHA-256 of the whole body before, and of the subject for entry 1, so
  that no entry can be changed, left out, moved or carried to another thread. A chain that does not
  hold together is read no further (`broken_chain`).
- **Records.** An entry holds what happened in order, all or none of it. Readers keep and skip
  records whose `type` they do not know.
- **Large values.** A `Value` from {codec.BLOB_BYTES_MIN:,} bytes on is an object in the object
  store `langmesh-values`, which forgets nothing, under the SHA-256 of its content: its kind, a NUL
  byte and its data; the entry says `["blob", <name>]`. Records of more than that together are an
  object as a whole (`stowed`).
- **Pruning.** An entry that starts with a [`base.v1`](#basev1) voids all before it; then their
  messages are purged. A chain begins with entry 1 or with such an entry.
"""

_STORE = """\
## Store

Long-term memory that all graphs of a tenant share: one JSON message per key, which replaces the
one before.

- Labels and keys may be any text. Where a token cannot hold it, the token is `h--` and a digest
  (BLAKE2b, 240 bits, base32hex); all labels behind the {labels_max}th share one that begins with
  `n--`. The body has the names.
- To put, read the subject's last message with a direct get, take over `created_at` and
  `first_seq`, and publish with `Nats-Expected-Last-Subject-Sequence`.
- To delete, publish [`store.deleted.v1`](#storedeletedv1) with the headers
  `{marker}: {reason}` and `{ttl}: {marker_ttl_s}`. Deleting or purging messages of the stream is
  not noticed by those who follow it.
- An empty message says that an item expired.
"""

_ERRORS = """\
## Errors

The same codes appear in events, replies, logs and on the terminal.
"""


def render() -> str:
    """Return the whole page."""
    return "\n".join(
        [
            _HEAD.format(who=tables.table(["who", "says", "to", "stream and form"], _WHO)),
            _names(),
            _BODIES.format(
                body_max=codec.BODY_BYTES_MAX,
                blob_min=codec.BLOB_BYTES_MIN,
                depth_max=codec.DEPTH_MAX,
                root=subjects.ROOT,
                parent=rpc.PARENT_HEADER,
            ),
            _subjects(),
            _streams(),
            _RUN,
            _PROGRAM,
            foreign.chapter(),
            _requests(),
            _messages(),
            "\n".join([_LOG, *(_struct(kind) for kind in _log_structs())]),
            _store(),
            f"{_ERRORS}\n{tables.error_table()}\n",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` say whether it is stale; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m langmesh.wire.document", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, help="the page's file")
    options = parser.parse_args(arguments)
    page: Path = options.page
    text = render()
    found = page.read_text(encoding="utf-8") if page.exists() else ""
    if found == text:
        return 0
    if not options.check:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
        return 0
    lines = difflib.unified_diff(
        found.splitlines(), text.splitlines(), str(page), "rendered", n=0, lineterm=""
    )
    hint = "\n".join(list(lines)[:40])
    sys.stderr.write(f"{hint}\n\n{page} is stale; run: python -m langmesh.wire.document\n")
    return 1


def _names() -> str:
    odd = tables.table(
        ["name", "token"], [[f"`{n}`", f"`{names.to_token(n, field='name')}`"] for n in _ODD_NAMES]
    )
    return _NAMES.format(
        pattern=names.TOKEN.pattern.removesuffix(r"\Z"),
        bytes_max=names.NAME_BYTES_MAX,
        odd=odd,
        partitions=names.PARTITIONS,
        partition_max=names.PARTITIONS - 1,
        tenant=examples.TENANT,
        thread=examples.THREAD,
        partition=names.partition(examples.TENANT, examples.THREAD),
    )


def _subjects() -> str:
    rows = [[f"`{shape}`", stream, purpose] for shape, stream, purpose in tables.subject_rows()]
    return f"## Subjects\n\n{tables.table(['subject', 'stream', 'purpose'], rows)}\n"


def _streams() -> str:
    submit, subject = streams.SUBMIT_CONSUMER, subjects.execution("tenant", "graph", "node", "v1")
    execution = streams.exec_consumer(subject)
    return f"""\
## Streams

{tables.stream_purposes()}

{tables.stream_table()}

All streams are kept in files. Two kinds of durable pull consumers with explicit acknowledgement
exist: `{submit.durable}` on {submit.stream} (acknowledgement within {submit.ack_wait_s:g} s),
which all coordinators share, and one on {execution.stream} per literal subject (within
{execution.ack_wait_s:g} s, prolonged while a node runs), whose name is the subject's tokens
joined by `=`: `{execution.durable}` for `{subject}`. Clients read EVENT and CHUNK with ordered or
ephemeral consumers of their own.
"""


def _requests() -> str:
    return "\n".join(
        [_REQUESTS, f"{tables.verb_table()}\n", *(_struct(kind) for kind in tables.structs(rpc))]
    )


def _store() -> str:
    head = _STORE.format(
        labels_max=subjects.STORE_LABELS_MAX,
        marker=items.MARKER_HEADER,
        reason=items.MARKER_REASON,
        ttl=items.TTL_HEADER,
        marker_ttl_s=streams.STORE.marker_ttl_s,
    )
    return "\n".join([head, *(_struct(kind) for kind in tables.structs(items))])


def _messages() -> str:
    """All structs in four groups; a struct stands in the first group that uses it."""
    everything: list[type[Any]] = tables.structs()
    events: list[type[Any]] = [k for k in everything if issubclass(k, messages.Event)]
    internal = _with_nested(
        [kind for kind in everything if hasattr(kind, "TYPE") or kind is messages.PlainTask]
    )
    tagged = [k for k in everything if k.__struct_config__.tag is not None and k not in events]
    rest = [kind for kind in everything if kind not in (*events, *internal, *tagged)]
    after = [kind for kind in rest if any(kind in tables.nested(event) for event in events)]
    before: list[type[Any]] = [messages.Submission]
    before += [kind for kind in rest if kind not in (*after, *before)]
    return "\n".join(
        [
            "## What clients send\n",
            *(_struct(kind) for kind in before),
            "## Events of a run\n\nOn the event subject of the run, in order of `seq`.\n",
            *(_struct(kind) for kind in [*events, *after]),
            "## Other messages for clients and operators\n",
            *(_struct(kind) for kind in tagged),
            "## Messages between services\n\nmsgpack; shown as JSON.\n",
            *(_struct(kind) for kind in internal),
        ]
    )


def _log_structs() -> list[type[Any]]:
    """The entry, its records, and what those hold."""
    kinds: list[type[Any]] = tables.structs(log)
    everything = _with_nested([log.Entry, *log.RECORDS])
    return [kind for kind in everything if kind in kinds]


def _with_nested(kinds: Sequence[type[Any]]) -> list[type[Any]]:
    return list(dict.fromkeys(part for kind in kinds for part in (kind, *tables.nested(kind))))


def _struct(kind: type[Any]) -> str:
    parts = [f"### {tables.heading(kind)}", tables.prose(kind.__doc__), tables.field_table(kind)]
    if kind.__struct_config__.tag is not None or hasattr(kind, "TYPE") or kind in _PLAIN:
        parts.append(f"```json\n{_checked_example(kind)}\n```")
    return "\n\n".join(parts) + "\n"


def _checked_example(kind: type[Any]) -> str:
    """The example as JSON text, after the codec has read and written it without a difference."""
    body = examples.body(kind)
    expected = examples.example(kind)
    if issubclass(kind, messages.Event):
        decoded: Any = codec.decode_event(body)
    elif kind is messages.Submission:
        decoded = codec.decode_submission(body)
    elif kind in (messages.ExecuteTask, messages.TaskOutcome, messages.CancelTasks):
        decoded = codec.decode(kind, codec.encode(codec.decode(kind, body)))
    else:
        decoded = codec.decode_json(kind, body)
    again = msgspec.json.decode(codec.encode_json(decoded), type=kind)
    if not decoded == expected == again:
        raise AssertionError(f"the example of {kind.__name__} changes on its way through the codec")
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)


if __name__ == "__main__":
    raise SystemExit(main())
