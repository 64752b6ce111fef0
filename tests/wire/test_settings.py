"""Settings: vendors' names where they exist, no misspelt name and no wrong value goes unnoticed."""

from dataclasses import fields

import pytest

from langmesh import settings
from langmesh.errors import ErrorCode, MeshError


def refused(**environ: str) -> str:
    with pytest.raises(MeshError) as caught:
        settings.load(environ)
    assert caught.value.code is ErrorCode.INVALID_SETTING
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults():
    assert settings.load({}) == settings.Settings()


def test_foreign_variables_are_none_of_our_business():
    assert settings.load({"PATH": "/bin", "NATS_TOKEN": "x", "OTEL_X": "y"}) == settings.Settings()


def test_values_are_parsed():
    loaded = settings.load(
        {
            "NATS_URL": "tls://n:4222",
            "ETCD_ENDPOINTS": "http://a:2379, b:2379",
            "LANGMESH_MAX_IN_FLIGHT": "4",
            "LANGMESH_SAMPLE_RATIO": "0.5",
            "LANGMESH_RECORD_CONTENT": "Yes",
            "LANGMESH_LOG_LEVEL": "debug",
        }
    )
    assert loaded.nats_url == "tls://n:4222"
    assert loaded.etcd_endpoints == ("a:2379", "b:2379")
    assert (loaded.max_in_flight, loaded.sample_ratio) == (4, 0.5)
    assert loaded.record_content is True
    assert loaded.log_level == "DEBUG"


def test_an_unknown_setting_is_refused_and_the_known_ones_are_listed():
    text = refused(LANGMESH_MAX_INFLIGHT="3")
    assert "LANGMESH_MAX_INFLIGHT is not a setting" in text
    assert "LANGMESH_MAX_IN_FLIGHT" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NATS_URL", "localhost:4222"),
        ("ETCD_ENDPOINTS", "localhost"),
        ("ETCD_ENDPOINTS", ","),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("LANGMESH_MAX_IN_FLIGHT", "0"),
        ("LANGMESH_MAX_IN_FLIGHT", "many"),
        ("LANGMESH_MAX_RUNS", "-1"),
        ("LANGMESH_SAMPLE_RATIO", "1.1"),
        ("LANGMESH_SAMPLE_RATIO", "nan"),
        ("LANGMESH_LOG_LEVEL", "loud"),
        ("LANGMESH_RECORD_CONTENT", "maybe"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(name: str, value: str):
    text = refused(**{name: value})
    assert name in text
    assert value in text


def test_an_empty_value_means_the_default():
    empty = {field.metadata["env"]: "" for field in fields(settings.Settings)}
    assert settings.load(empty) == settings.Settings()


def test_every_setting_says_what_it_is_for():
    for field in fields(settings.Settings):
        assert field.metadata["purpose"], field.name
