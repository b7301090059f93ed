"""Values in an Any: exact type URLs out, both forms in."""

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from hypothesis import given
from hypothesis import strategies as st

from kata_api.any import (
    FEATURES_URL,
    LINUX_RESOURCES_URL,
    PROCESS_URL,
    SPEC_URL,
    MalformedValueError,
    UnexpectedTypeError,
    holds,
    pack,
    pack_json,
    unpack,
    unpack_json,
)
from kata_api.containerd.events_pb2 import TaskExit
from kata_api.containerd.runc_options_pb2 import Options as RuncOptions
from kata_api.containerd.runtime_options_pb2 import Options

pytestmark = pytest.mark.unit


def test_pack_writes_the_bare_name() -> None:
    packed = pack(TaskExit(container_id="c"))
    assert packed.SerializeToString() == b"\x0a\x1acontainerd.events.TaskExit\x12\x03\x0a\x01c"


@given(st.text(max_size=9), st.integers(0, 2**32 - 1))
def test_unpack_returns_what_pack_took(container_id: str, pid: int) -> None:
    event = TaskExit(container_id=container_id, pid=pid)
    assert unpack(pack(event), TaskExit) == event


def test_unpack_takes_the_form_of_protobuf_itself() -> None:
    packed = Any()
    packed.Pack(Options(config_path="/c"))
    assert packed.type_url == "type.googleapis.com/runtimeoptions.v1.Options"
    assert unpack(packed, Options).config_path == "/c"


def test_packages_tell_messages_of_one_name_apart() -> None:
    packed = pack(Options())
    assert holds(packed, Options)
    assert not holds(packed, RuncOptions)


@pytest.mark.parametrize(
    ("type_url", "words"),
    [
        ("containerd.runc.v1.Options", "'containerd.runc.v1.Options'"),
        ("Options", "'Options'"),
        ("runtimeoptions.v1.Options/", "'runtimeoptions.v1.Options/'"),
        ("", "no type URL"),
    ],
)
def test_another_type_is_refused_in_words(type_url: str, words: str) -> None:
    with pytest.raises(UnexpectedTypeError) as caught:
        unpack(Any(type_url=type_url), Options)
    assert caught.value.type_url == type_url
    assert "expected runtimeoptions.v1.Options" in str(caught.value)
    assert words in str(caught.value)


def test_bytes_that_do_not_decode_are_refused() -> None:
    packed = Any(type_url="runtimeoptions.v1.Options", value=b"\x0a\x09short")
    with pytest.raises(MalformedValueError, match=r"7 bytes do not decode as runtimeoptions\.v1"):
        unpack(packed, Options)


def test_an_empty_value_is_the_empty_message() -> None:
    assert unpack(Any(type_url="google.protobuf.Empty"), Empty) == Empty()


@pytest.mark.parametrize(
    ("type_url", "text"),
    [
        (SPEC_URL, "types.containerd.io/opencontainers/runtime-spec/1/Spec"),
        (PROCESS_URL, "types.containerd.io/opencontainers/runtime-spec/1/Process"),
        (LINUX_RESOURCES_URL, "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"),
        (FEATURES_URL, "types.containerd.io/opencontainers/runtime-spec/1/features/Features"),
    ],
)
def test_json_types(type_url: str, text: str) -> None:
    assert type_url == text
    packed = pack_json(type_url, b"{}")
    assert (packed.type_url, packed.value) == (text, b"{}")
    assert unpack_json(packed, type_url) == b"{}"


def test_json_of_another_version_of_the_specification_is_taken() -> None:
    packed = Any(type_url="types.containerd.io/opencontainers/runtime-spec/2/Process", value=b"{}")
    assert unpack_json(packed, PROCESS_URL) == b"{}"


def test_json_of_another_type_is_refused() -> None:
    with pytest.raises(UnexpectedTypeError, match=r"expected .*/Process in an Any, found .*/Spec'"):
        unpack_json(pack_json(SPEC_URL, b"{}"), PROCESS_URL)
