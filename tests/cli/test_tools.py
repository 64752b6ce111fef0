"""``bench`` and ``test`` as programs read them."""

from tests.cli.conftest import Shell


def test_the_benchmark_prints_its_figures(shell: Shell):
    sizes = ("--steps", "2", "--concurrency", "2", "--runs", "4", "--agents", "1")
    figures = shell.json("bench", "chain", *sizes)
    assert figures["concurrency"] == 2
    assert figures["steps_per_s"] > 0
    assert figures["langgraph"]["steps_per_s"] > 0
    assert figures["single"]["step_ms_p50"] > 0
    assert figures["cpu_us_per_step"]
    assert not shell.stack()


def test_the_tests_tell_how_they_went(shell: Shell):
    passed = shell.json("test", "-n", "0", "tests/wire/test_names.py")
    assert passed["exit_code"] == 0
    assert passed["passed"] == passed["tests"] > 0
    assert passed["failures"] == passed["errors"] == passed["skipped"] == 0
    assert passed["seconds"] > 0
    assert shell.json("test", "-n", "0", "tests/nosuch.py", code=4)["exit_code"] == 4
