"""Subjects: built and parsed without loss, and each kept by exactly one stream."""

import contextlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.errors import MeshError
from langmesh.wire import streams, subjects

NAME = st.text(min_size=1, max_size=25)  # at most 100 bytes
ANY_NAME = st.text(min_size=1, max_size=400)
ANY = st.text(max_size=200)
LABELS = st.one_of(ANY, st.sampled_from(["a", "b", "h--a", "n--a", "x--", "", "."]))
NAMESPACE = st.lists(LABELS, max_size=20).map(tuple)
PARTITION = st.integers(0, 255)
CAP = st.text("0123456789abcdefghijklmnopqrstuv", min_size=26, max_size=26)


def matches(pattern: str, subject: str) -> bool:
    """NATS' rule: ``*`` is one token, ``>`` at the end is one or more."""
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, found = wanted[:-1], found[: len(wanted) - 1] if len(found) >= len(wanted) else []
    return len(wanted) == len(found) and all(
        want in ("*", have) for want, have in zip(wanted, found, strict=True)
    )


@dataclass(frozen=True)
class Kind:
    """How to build one kind of subject, and the stream that keeps it."""

    build: object
    arguments: tuple[st.SearchStrategy, ...]
    stream: str | None


KINDS = {
    "submit": Kind(subjects.submit, (NAME, NAME), "SUBMIT"),
    "rpc": Kind(lambda tenant: subjects.rpc(tenant, "run.get"), (NAME,), None),
    "exec": Kind(subjects.execution, (NAME, NAME, NAME, NAME), "EXEC"),
    "slot": Kind(subjects.slot, (PARTITION, NAME, NAME, NAME, CAP), "SLOT"),
    "log": Kind(subjects.log, (PARTITION, NAME, NAME), "LOG"),
    "nested log": Kind(subjects.log, (PARTITION, NAME, ANY_NAME, ANY_NAME), "LOG"),
    "active": Kind(subjects.active, (PARTITION, NAME, NAME), "ACTIVE"),
    "event": Kind(subjects.event, (NAME, NAME, NAME, NAME), "EVENT"),
    "reject": Kind(subjects.reject, (NAME, NAME), "EVENT"),
    "chunk": Kind(subjects.chunk, (NAME, NAME, NAME, NAME, NAME), "CHUNK"),
    "dead": Kind(subjects.dead, (NAME, NAME, NAME), "DEAD"),
    "store": Kind(subjects.store_item, (NAME, NAMESPACE, ANY), "STORE"),
    "control": Kind(subjects.control, (NAME, NAME, NAME), None),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(data=st.data())
def test_each_subject_is_kept_by_exactly_the_stream_it_is_meant_for(kind: Kind, data):
    subject = kind.build(*(data.draw(argument) for argument in kind.arguments))
    keeping = [
        spec.name
        for spec in streams.STREAMS
        for wildcard in spec.subjects
        if matches(wildcard, subject)
    ]
    assert keeping == ([kind.stream] if kind.stream else [])
    assert not set(subject) & set(" *>\t\r\n")
    assert all(subject.split("."))


@given(NAME, NAME)
def test_a_submission_subject_is_taken_apart_without_loss(tenant: str, graph: str):
    parsed = subjects.parse_submit(subjects.submit(tenant, graph))
    assert parsed == subjects.SubmitSubject(tenant, graph)


@given(NAME, NAME, NAME, NAME)
def test_an_execution_subject_is_taken_apart_without_loss(
    tenant: str, graph: str, node: str, release: str
):
    parsed = subjects.parse_execution(subjects.execution(tenant, graph, node, release))
    assert parsed == subjects.ExecSubject(tenant, graph, node, release)


@given(st.tuples(NAME, NAME, NAME, NAME), st.tuples(NAME, NAME, NAME, NAME))
def test_execution_consumers_are_named_one_to_one(one: tuple, other: tuple):
    """Window: two subjects with one durable name would take over each other's tasks."""
    names = {subjects.exec_consumer(subjects.execution(*parts)) for parts in (one, other)}
    assert len(names) == len({one, other})
    for name in names:
        assert not set(name) & set(" .*>/\\\t\r\n"), "JetStream refuses these in durable names"


@given(NAME, NAME, NAME, NAME)
def test_the_wildcards_for_readers_match_the_events_they_promise(
    tenant: str, graph: str, thread: str, run: str
):
    event = subjects.event(tenant, graph, thread, run)
    assert matches(subjects.events_of_graph(tenant, graph), event)
    assert matches(subjects.events_of_run(tenant, run), event)
    assert not matches(subjects.events_of_graph(tenant, graph), subjects.reject(tenant, graph))


@given(PARTITION, NAME, NAME, NAME, CAP)
def test_a_capability_is_read_back_from_its_slot(partition, tenant, graph, node, cap):
    assert subjects.slot_cap(subjects.slot(partition, tenant, graph, node, cap)) == cap


@given(PARTITION, NAME, NAME, st.sets(ANY_NAME, min_size=2, max_size=4))
def test_chains_are_kept_apart_whatever_they_are_called(partition, tenant, fixed, names):
    for built in (
        {subjects.log(partition, tenant, fixed, namespace) for namespace in names},
        {subjects.log(partition, tenant, thread, fixed) for thread in names},
    ):
        assert len(built) == len(names)
        for subject in built:
            assert matches(subjects.LOG_ALL, subject)
            assert matches(subjects.logs_of_tenant(tenant), subject)
            assert max(map(len, subject.split(".")[4:])) <= 180


@given(PARTITION, NAME, ANY_NAME, st.one_of(st.just(""), ANY_NAME))
def test_a_log_subject_is_taken_apart_but_for_what_it_holds_a_digest_of(
    partition, tenant, thread, namespace
):
    subject = subjects.log(partition, tenant, thread, namespace)
    parsed = subjects.parse_log(subject)
    assert (parsed.partition, parsed.tenant) == (partition, tenant)
    assert parsed.thread in (thread, None)
    assert parsed.namespace in (namespace, None)
    assert (parsed.thread is None) == (len(thread.encode()) > 100 or thread.startswith("h--"))
    assert matches(subjects.logs_of_thread(partition, tenant, thread), subject) == bool(namespace)


def test_a_name_cannot_be_that_of_the_digest_of_another():
    long = "node:0123456789abcdef|" * 20
    for place in ("t", long), (long, ""):
        subject = subjects.log(0, "t", *place)
        token = subject.rpartition(".")[2]
        assert subjects.log(0, "t", *[token if part == long else part for part in place]) != subject


PARSERS = (
    subjects.parse_submit,
    subjects.parse_execution,
    subjects.parse_store_item,
    subjects.exec_consumer,
    subjects.parse_log,
)


ITEM = st.tuples(NAMESPACE, LABELS)


@given(NAME, st.sets(ITEM, min_size=2, max_size=5))
def test_items_of_a_store_are_kept_apart(tenant: str, items: set):
    """Window: two keys on one subject would overwrite each other."""
    built = {subjects.store_item(tenant, *item) for item in items}
    assert len(built) == len(items)
    assert all(len(subject) < 3000 for subject in built)


@given(NAME, NAMESPACE, NAMESPACE, LABELS)
def test_a_wildcard_covers_what_is_below_a_namespace(tenant, prefix, rest, key):
    for namespace in (prefix + rest, rest):
        subject = subjects.store_item(tenant, namespace, key)
        covered = matches(subjects.store_below(tenant, prefix), subject)
        shown = prefix[: subjects.STORE_LABELS_MAX]
        assert covered == (namespace[: len(shown)] == shown)
        assert covered or namespace[: len(prefix)] != prefix
        assert not matches(subjects.store_below(tenant + "!", prefix), subject)


SHORT = st.text(min_size=1, max_size=25).filter(lambda name: name[:3] not in ("h--", "n--"))


@given(NAME, st.lists(SHORT, max_size=15).map(tuple), SHORT)
def test_short_names_of_a_store_are_read_back(tenant, namespace, key):
    subject = subjects.store_item(tenant, namespace, key)
    assert subjects.parse_store_item(subject) == subjects.StoreSubject(tenant, namespace, key)


@pytest.mark.parametrize(
    ("namespace", "key"),
    [((), ""), (("n--x",), "k"), (("h--x",), "k"), (("a",) * 16, "k"), ((), "k" * 101)],
)
def test_a_digest_in_a_subject_is_no_name(namespace, key):
    with pytest.raises(MeshError, match="digest"):
        subjects.parse_store_item(subjects.store_item("t", namespace, key))


@given(st.text(max_size=80))
def test_foreign_subjects_raise_nothing_but_a_mesh_error(subject: str):
    prefix = subjects.submit("t", "g").removesuffix("t.g")
    for candidate in (subject, prefix + subject):
        for parse in PARSERS:
            with contextlib.suppress(MeshError):
                parse(candidate)


@pytest.mark.parametrize("field", ["tenant", "graph", "node", "release"])
def test_a_refused_name_is_called_by_its_field(field: str):
    parts = {"tenant": "t", "graph": "g", "node": "n", "release": "r"} | {field: ""}
    with pytest.raises(MeshError, match=f"^{field}: "):
        subjects.execution(**parts)


def test_streams_do_not_overlap():
    """Window: JetStream refuses overlapping streams only when the second one is created."""
    literal = {
        wildcard: wildcard.replace("*", "a").replace(">", "0.a.b")
        for spec in streams.STREAMS
        for wildcard in spec.subjects
    }
    for wildcard in literal:
        assert [other for other, text in literal.items() if matches(wildcard, text)] == [wildcard]
