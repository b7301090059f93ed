"""The OCI runtime specification: whole documents, any document, and faults in words."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from kata_api import oci

pytestmark = pytest.mark.unit

SOURCE = Path(__file__).resolve().parents[3] / "src"
SAMPLES = Path(__file__).parent / "samples"


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_document_is_the_same_after_a_round_trip(path: Path) -> None:
    spec = oci.load(path)
    assert json.loads(oci.encode(spec)) == json.loads(path.read_text())
    assert oci.decode_spec(oci.encode(spec)) == spec


def structures(value: object) -> Iterator[msgspec.Struct]:
    """Yield the value and every structure in it."""
    if isinstance(value, msgspec.Struct):
        yield value
        for name in value.__struct_fields__:
            yield from structures(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from structures(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from structures(item)


def test_the_sample_of_every_field_has_every_field() -> None:
    """What makes the round trip above a check of every name's spelling."""
    spec = oci.load(SAMPLES / "every_field.json")
    seen = set()
    for structure in structures(spec):
        seen.add(type(structure))
        filled = msgspec.to_builtins(structure)
        assert len(filled) == len(structure.__struct_fields__), type(structure)
    defined = {
        value
        for value in vars(oci).values()
        if isinstance(value, type) and issubclass(value, oci._Node) and value is not oci._Node
    }
    assert seen == defined


def test_ctr_sample() -> None:
    spec = oci.load(SAMPLES / "ctr.json")
    assert spec.process is not None
    assert spec.process.terminal
    assert spec.process.user == oci.User(uid=0, gid=0, additional_gids=(0, 10))
    assert spec.linux is not None
    assert [namespace.type for namespace in spec.linux.namespaces] == [
        "pid",
        "ipc",
        "uts",
        "mount",
        "network",
    ]
    assert spec.linux.resources is not None
    assert spec.linux.resources.devices[0] == oci.DeviceCgroup(allow=False, access="rwm")
    assert spec.linux.resources.memory is None


def test_cri_sample() -> None:
    spec = oci.load(SAMPLES / "cri.json")
    assert spec.root is not None
    assert spec.root.readonly
    assert spec.annotations["io.kubernetes.cri.container-type"] == "container"
    assert spec.linux is not None
    assert spec.linux.resources is not None
    assert spec.linux.resources.memory == oci.Memory(limit=256 << 20, swap=256 << 20)
    assert spec.linux.resources.unified["memory.oom.group"] == "1"
    assert spec.linux.devices[0].uid == 0
    assert spec.linux.seccomp is not None
    assert spec.linux.seccomp.syscalls[-1].errno_ret == 38


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Return any value of a type, from msgspec's own description of it."""
    match kind:
        case inspect.StructType():
            return st.builds(
                kind.cls,
                **{
                    field.name: values(field.type)
                    if field.required
                    else values(field.type) | st.just(default(field))
                    for field in kind.fields
                },
            )
        case inspect.UnionType():
            return st.one_of(*(values(member) for member in kind.types))
        case inspect.VarTupleType():
            return st.lists(values(kind.item_type), max_size=2).map(tuple)
        case inspect.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=2)
        case inspect.IntType():
            return st.integers(kind.ge, 2**64 - 1 if kind.le is None else kind.le)
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.StrType():
            return st.text(max_size=4)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
    raise TypeError(kind)


def default(field: inspect.Field) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


@pytest.mark.parametrize("kind", [oci.Process, oci.LinuxResources, oci.Hooks, oci.Linux, oci.Spec])
def test_any_value_survives_a_round_trip(kind: type[msgspec.Struct]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values(inspect.type_info(kind)))
    def check(value: msgspec.Struct) -> None:
        assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value

    check()


def test_an_absent_field_is_its_default() -> None:
    process = oci.decode_process(b'{"cwd":"/"}')
    assert process == oci.Process(cwd="/", user=oci.User(uid=0, gid=0))
    assert oci.encode(process) == b'{"cwd":"/","user":{"uid":0,"gid":0}}'
    assert oci.encode(oci.decode_resources(b"{}")) == b"{}"


def test_a_limit_of_zero_is_not_an_absent_limit() -> None:
    resources = oci.decode_resources(b'{"memory":{"limit":0},"pids":{}}')
    assert resources.memory == oci.Memory(limit=0)
    assert resources.pids == oci.Pids(limit=None)
    assert oci.encode(resources) == b'{"memory":{"limit":0},"pids":{}}'


def test_unknown_fields_are_ignored() -> None:
    process = oci.decode_process(b'{"cwd":"/","zos":{"a":[1]},"user":{"uid":1,"gid":2,"sid":"x"}}')
    assert process.user == oci.User(uid=1, gid=2)


def test_values_are_frozen() -> None:
    user = oci.User(uid=0, gid=0)
    with pytest.raises(AttributeError):
        user.uid = 1  # type: ignore[misc]
    assert msgspec.structs.replace(user, uid=1) == oci.User(uid=1, gid=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{}", "`cwd`"),
        (b'{"cwd":1}', "Expected `str`, got `int` - at `$.cwd`"),
        (b'{"cwd":"/","args":["a",null]}', "Expected `str`, got `null` - at `$.args[1]`"),
        (b'{"cwd":"/","user":{"uid":-1,"gid":0}}', "`$.user.uid`"),
        (b'{"cwd":"/","user":{"uid":4294967296,"gid":0}}', "`$.user.uid`"),
        (
            b'{"cwd":"/","rlimits":[{"type":"R","soft":0,"hard":18446744073709551616}]}',
            "`hard` does not fit 64 bits - at `$.rlimits[0]`",
        ),
        (b'{"cwd":"/","oomScoreAdj":9223372036854775808}', "`$.oomScoreAdj`"),
        (b'{"cwd":"/"', "truncated"),
        (b'{"cwd":"/"} x', "malformed"),
        (b"", "truncated"),
        (b'{"cwd":"\xff"}', "utf-8"),
        (b'{"cwd":"/","x":' + b"[" * 100_000, "recursion"),
    ],
)
def test_a_fault_says_what_and_where(text: bytes, words: str) -> None:
    with pytest.raises(oci.SpecError) as caught:
        oci.decode_process(text)
    assert str(caught.value).startswith("not a process of the OCI runtime specification: ")
    assert words in str(caught.value)


def test_a_fault_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"ociVersion":"1.0.0","linux":{"namespaces":[{"type":"pod"}]}}')
    with pytest.raises(oci.SpecError) as caught:
        oci.load(path)
    assert str(caught.value) == (
        f"{path}: not an OCI runtime specification: "
        "Invalid enum value 'pod' - at `$.linux.namespaces[0].type`"
    )


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        oci.load(tmp_path / "config.json")


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,cwd01 ').map(str.encode))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with suppress(oci.SpecError):
        spec = oci.decode_spec(data)
        assert oci.decode_spec(oci.encode(spec)) == spec


def test_importing_it_imports_no_protobuf() -> None:
    program = "import sys; from kata_api import oci; print('google.protobuf' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert result.stdout == "False\n"
