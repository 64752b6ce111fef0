from __future__ import annotations

import pytest

from langmesh.embedded.binaries import ETCD, NATS_SERVER, Program, locate
from langmesh.errors import ErrorCode, MeshError


def test_finds_the_installed_programs(monkeypatch):
    monkeypatch.setenv("PATH", "")
    for program in (NATS_SERVER, ETCD):
        # Native programs of tens of megabytes, not the scripts of the same name.
        assert locate(program).stat().st_size > 1_000_000


def test_falls_back_to_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    own = tmp_path / "own-server"
    own.write_text("#!/bin/sh\n")
    program = Program("own-server", "own-server-bin", package="own_server", inside="bin")
    with pytest.raises(MeshError):
        locate(program)
    own.chmod(0o755)
    assert locate(program) == own


@pytest.mark.parametrize("package", ["", "no_such_package"])
def test_says_what_to_install(package):
    with pytest.raises(MeshError, match="'no-such-server' was not found") as caught:
        locate(Program("no-such-server", "no-such-distribution", package=package))
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING
    assert "pip install no-such-distribution" in caught.value.remedy


def test_finds_scripts_that_the_installer_put_elsewhere(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")
    assert locate(NATS_SERVER).name == "nats-server"
