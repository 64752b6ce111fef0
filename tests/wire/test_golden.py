"""Bytes that were once on the wire, kept for ever: every later version reads them without loss.

A new message gets its files by ``python tests/wire/test_golden.py``, which never touches existing
ones: they stand for programs that are already deployed.
"""

import json
import textwrap
from pathlib import Path

import msgspec
import pytest

from langmesh.errors import MeshError
from langmesh.wire import codec, examples, items, log, messages, rpc

GOLDEN = Path(__file__).with_name("golden")
INTERNAL = {
    kind.TYPE: kind for kind in (messages.ExecuteTask, messages.TaskOutcome, messages.CancelTasks)
}
EVENTS = {kind.__struct_config__.tag: kind for kind in messages.EVENTS}
OTHERS = {
    kind.__struct_config__.tag: kind
    for kind in (messages.RunRejected, messages.Chunk, messages.DeadLetter)
}
STORED = {kind.__struct_config__.tag: kind for kind in (items.StoreItem, items.StoreDeleted)}
REQUESTS = {f"{name}.request": verb.request for name, verb in rpc.VERBS.items()}
REPLIES = {f"{name}.reply": verb.reply for name, verb in rpc.VERBS.items()}
RPC = {**REQUESTS, **REPLIES, "rpc.error": rpc.RpcError}
PLAIN = {"task.execute.v1.plain": messages.PlainTask}
LOG = {kind.__struct_config__.tag: kind for kind in (log.Entry, *log.RECORDS)}
ALL = {
    "submission": messages.Submission,
    **INTERNAL,
    **EVENTS,
    **OTHERS,
    **STORED,
    **PLAIN,
    **RPC,
    **LOG,
}
BINARY = {*INTERNAL, log.Entry.__struct_config__.tag}
STRICT = {"submission", *REQUESTS}


def decode(name: str, body: bytes):
    if name in INTERNAL:
        return codec.decode(INTERNAL[name], body)
    if name in BINARY and not body.startswith(b"{"):
        return log.decode_entry(body)[0]
    if name in REQUESTS:
        return codec.decode_request(REQUESTS[name], body)
    own = {"submission": codec.decode_submission}
    own |= dict.fromkeys(EVENTS, codec.decode_event) | dict.fromkeys(STORED, codec.decode_stored)
    return own[name](body) if name in own else codec.decode_json(ALL[name], body)


def encode(message) -> bytes:
    if isinstance(message, log.Entry):
        return log.encode_entry(message, [log.encode_record(one) for one in message.records])
    return codec.encode(message)


def bodies(name: str) -> list[bytes]:
    """The stored body in JSON and, for messages between services, in msgpack."""
    found = [(GOLDEN / f"{name}.json").read_bytes()]
    if name in BINARY:
        found.append(bytes.fromhex((GOLDEN / f"{name}.msgpack.hex").read_text()))
    return found


def holds(whole, part) -> bool:
    """Whether everything in `part` is in `whole` with the same value."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and holds(whole[key], value) for key, value in part.items()
        )
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return whole == part


def with_news(value: dict) -> dict:
    """The body as a later version might write it: one more field in each of our objects."""
    ours = ("header", "payload", "context", "error", "executor")
    grown = {key: with_news(item) if key in ours else item for key, item in value.items()}
    return grown | {"added_in_a_later_version": 1}


@pytest.mark.parametrize("name", ALL)
def test_every_message_has_its_golden_bytes(name: str):
    assert all(bodies(name)), "run: python tests/wire/test_golden.py"


@pytest.mark.parametrize("name", ALL)
def test_old_bytes_are_read_without_loss(name: str):
    stored = json.loads(bodies(name)[0])
    for body in bodies(name):
        message = decode(name, body)
        assert isinstance(message, ALL[name])
        assert holds(json.loads(msgspec.json.encode(_with_defaults(message))), stored)


@pytest.mark.parametrize("name", [name for name in ALL if name not in STRICT])
def test_fields_of_a_later_version_are_ignored(name: str):
    stored = json.loads(bodies(name)[0])
    assert decode(name, json.dumps(with_news(stored)).encode()) == decode(name, bodies(name)[0])


@pytest.mark.parametrize("name", sorted(STRICT))
def test_what_clients_ask_with_an_unknown_field_is_refused(name: str):
    stored = json.loads(bodies(name)[0])
    with pytest.raises(MeshError, match="added_in_a_later_version"):
        decode(name, json.dumps(with_news(stored)).encode())


def _with_defaults(value):
    """The message as plain data with the fields that encoding leaves out at their defaults."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        fields = {name: _with_defaults(getattr(value, name)) for name in value.__struct_fields__}
        if config.array_like:
            return list(fields.values())
        return fields if config.tag is None else {config.tag_field: config.tag, **fields}
    if isinstance(value, dict):
        return {key: _with_defaults(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_defaults(item) for item in value]
    return value


def write_missing() -> None:
    """Write the examples of messages that have no golden bytes yet."""
    GOLDEN.mkdir(exist_ok=True)
    for name, kind in ALL.items():
        text = GOLDEN / f"{name}.json"
        if not text.exists():
            text.write_text(
                json.dumps(json.loads(examples.body(kind)), indent=2, ensure_ascii=False) + "\n"
            )
        binary = GOLDEN / f"{name}.msgpack.hex"
        if name in BINARY and not binary.exists():
            digits = encode(decode(name, text.read_bytes())).hex()
            binary.write_text("\n".join(textwrap.wrap(digits, 96)) + "\n")


if __name__ == "__main__":
    write_missing()
