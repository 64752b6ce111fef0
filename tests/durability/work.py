"""What the graph ``pipeline`` of ``tests.graphs.work`` makes, wherever it runs."""

from langmesh.wire.messages import RunEnded


def assert_as_alone(end: RunEnded) -> None:
    """It ended as it does in one process, where nothing dies."""
    assert (end.status, end.error) == ("success", None)
    # The worker says its pid as well.
    assert [words.split()[0] for words in end.output["done"]] == ["plan", "worker", "sum_up"]
