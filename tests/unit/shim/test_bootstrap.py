"""The two things that containerd writes to the standard input of `start`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.shim.bootstrap import runtime_options, socket_directory
from kata_api.any import pack
from kata_api.containerd.bootstrap_pb2 import BootstrapParams, Extension, LogLevel
from kata_api.containerd.runtime_options_pb2 import Options

pytestmark = pytest.mark.unit


def _parameters(**extra: object) -> bytes:
    message = BootstrapParams(
        instance_id="c1",
        namespace="default",
        log_level=LogLevel.DEBUG,  # negative: a varint of ten bytes
        containerd_version="2.3.4",
        containerd_grpc_address="/run/c.sock",
        **extra,  # type: ignore[arg-type]
    )
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (_parameters(), None),
        (_parameters(socket_dir="/run/other"), "/run/other"),
        (pack(Options(config_path="/etc/kata.toml")).SerializeToString(), None),
        (_parameters(socket_dir="/run/other")[:-1], None),
        (b"\xff" * 40, None),
        (b"\x0b", None),
    ],
)
def test_reads_the_socket_directory(data: bytes, expected: str | None) -> None:
    assert socket_directory(data, "c1", "default") == expected


def test_parameters_of_another_container_are_options() -> None:
    data = _parameters(socket_dir="/run/other")
    assert socket_directory(data, "c2", "default") is None
    assert socket_directory(data, "c1", "k8s.io") is None


def test_reads_the_runtime_options_in_either_form() -> None:
    options = pack(Options(config_path="/etc/kata.toml"))
    for data in (
        options.SerializeToString(),
        _parameters(extensions=[Extension(value=options)], socket_dir="/run/other"),
    ):
        assert runtime_options(data, "c1", "default") == options.SerializeToString()
    assert runtime_options(_parameters(), "c1", "default") == b""
    assert runtime_options(b"", "c1", "default") == b""


@given(st.binary(max_size=200))
def test_any_input_gives_an_answer(data: bytes) -> None:
    assert socket_directory(data, "c1", "default") is None
