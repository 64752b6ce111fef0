"""What a service reports of itself is what it counted, and shares of what it may use."""

import time
from pathlib import Path

import psutil
import pytest

from langmesh import clock
from langmesh.service.load import Counts, Meter
from langmesh.service.usage import Allowance, Sample, Usage

SAMPLE = Sample(cpu=0.5, memory=0.25, memory_bytes=1000)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clock, "monotonic", made)
    return made


def test_a_report_is_of_its_interval_alone(ticks: Clock):
    counts, in_flight = Counts(), [3]
    counts.begin(9.0)
    meter = Meter("a-1", counts, in_flight=lambda: in_flight[0], capacity=lambda: 8)
    counts.begin(0.010)
    counts.begin(0.030)
    counts.end(0.5, failed=False)
    counts.end(1.5, failed=True)
    ticks.now += 4
    report = meter.measure(SAMPLE)
    assert (report.agent_id, report.in_flight, report.capacity) == ("a-1", 3, 8)
    assert (report.cpu_usage, report.memory_usage, report.memory_bytes) == (0.5, 0.25, 1000)
    assert report.request_rate == 0.5
    assert report.queue_wait_ms == 20.0
    assert report.execute_ms == 1000.0
    assert report.failures == 1
    ticks.now += 4
    quiet = meter.measure(SAMPLE)
    assert (quiet.request_rate, quiet.failures) == (0.0, 0)
    assert (quiet.queue_wait_ms, quiet.execute_ms) == (None, None)
    assert meter.measure(SAMPLE).request_rate == 0.0, "no time has passed"


def group(root: Path, path: str, cpu: str | None = None, memory: str | None = None) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("cpu.max", cpu), ("memory.max", memory)):
        if text is not None:
            (folder / name).write_text(text + "\n")


def test_the_narrowest_limit_of_the_cgroups_counts(tmp_path: Path):
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("9:cpu:/other\n0::/pods/one\n")
    group(root, "", cpu="max 100000", memory="max")
    group(root, "pods", cpu="50000 100000", memory="max")
    group(root, "pods/one", cpu="max 100000", memory="1000000")
    found = Allowance.of_this_process(cgroups=root, membership=membership)
    assert (found.cpus, found.memory_bytes) == (0.5, 1_000_000)


@pytest.mark.parametrize("text", ["", "0::/../../out\n", "0::/gone\n", "nonsense"])
def test_without_limits_the_machine_counts(tmp_path: Path, text: str):
    membership = tmp_path / "membership"
    membership.write_text(text)
    found = Allowance.of_this_process(cgroups=tmp_path / "none", membership=membership)
    assert found.cpus >= 1
    assert found.memory_bytes == psutil.virtual_memory().total


def test_a_process_that_works_uses_what_it_may():
    usage = Usage(Allowance(cpus=1.0, memory_bytes=10**12))
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    sample = usage.sample()
    assert 0 < sample.cpu <= 1
    assert sample.memory == sample.memory_bytes / 10**12
    assert sample.memory_bytes > 10**6
    assert Usage(Allowance(cpus=1.0, memory_bytes=1)).sample().memory == 1.0
