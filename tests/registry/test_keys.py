import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.wire.names import to_token


def test_keys_of_the_design():
    assert keys.agent("t", "g", "n", "n-1") == "/langmesh/v1/agents/t/g/n/n-1"
    assert keys.agents() == "/langmesh/v1/agents/"
    assert keys.agents("t") == "/langmesh/v1/agents/t/"
    assert keys.agents("t", "g", "n") == "/langmesh/v1/agents/t/g/n/"
    assert keys.coordinator("t", "c-1") == "/langmesh/v1/coordinators/t/c-1"
    assert keys.route("t", "g", "0a1b") == "/langmesh/v1/graphs/t/g/routes/0a1b"
    assert keys.bindings("t", "g") == "/langmesh/v1/graphs/t/g/bindings"
    assert keys.releases("t", "g") == "/langmesh/v1/graphs/t/g/releases"
    assert keys.agent_config("t", "g", "n") == "/langmesh/v1/config/t/agents/g/n"
    assert keys.graph_config("t", "g") == "/langmesh/v1/config/t/graphs/g"
    assert keys.flag("t", "fast") == "/langmesh/v1/flags/t/fast"
    assert keys.partition(255) == "/langmesh/v1/partitions/255"
    assert keys.secret("k1") == "/langmesh/v1/keys/k1"


def test_plurals_are_prefixes_of_their_keys():
    assert keys.agent("t", "g", "n", "i").startswith(keys.agents("t", "g"))
    assert keys.coordinator("t", "i").startswith(keys.coordinators("t"))
    assert keys.route("t", "g", "r").startswith(keys.routes("t", "g"))
    assert keys.routes("t", "g").startswith(keys.graphs("t"))
    assert keys.agent_config("t", "g", "n").startswith(keys.config("t"))
    assert keys.flag("t", "f").startswith(keys.flags("t"))
    assert keys.partition(0).startswith(keys.partitions())
    assert keys.secret("k").startswith(keys.secrets())


@given(st.lists(st.text(min_size=1, max_size=24), min_size=4, max_size=4))
def test_no_name_leaves_its_prefix_and_every_name_comes_back(names):
    key = keys.agent(*names)
    assert key.isascii()
    assert key.count("/") == 7
    assert keys.names(key.removeprefix(keys.agents())) == tuple(names)
    assert keys.names(key.removeprefix(keys.agents(names[0], names[1]))) == tuple(names[2:])


def test_what_cannot_be_a_key_is_refused():
    with pytest.raises(MeshError) as caught:
        keys.agents("t", node="n")
    assert caught.value.code is ErrorCode.INVALID_FIELD
    assert "graph" in caught.value.message
    for number in (-1, 256):
        with pytest.raises(MeshError):
            keys.partition(number)
    with pytest.raises(MeshError) as caught:
        keys.flag("t", "")
    assert caught.value.code is ErrorCode.INVALID_NAME
    with pytest.raises(MeshError):
        keys.names(to_token("a", field="x") + "//b")
