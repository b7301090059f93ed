"""The manifest: there and back, damaged files, foreign files."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from kata.image.errors import ImageError
from kata.image.manifest import (
    INITRD,
    MANIFEST,
    FileRecord,
    KernelRecord,
    Manifest,
    PackageRecord,
    ProtobufRecord,
    PythonRecord,
    differences,
    read,
)

pytestmark = pytest.mark.unit

CONTENT = b"an initrd"
SAMPLE = Manifest(
    schema=1,
    inputs="i",
    distribution="debian bookworm",
    architecture="amd64",
    kernel=KernelRecord("6.1.0", ("virtio", "virtio_ring")),
    python=PythonRecord("3.11.2", ("os",)),
    agent="a",
    protobuf=ProtobufRecord("6.33", {"google/x.py": "d"}),
    packages=(PackageRecord("libc6", "2.36", "amd64", "s"),),
    files={INITRD: FileRecord(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())},
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / INITRD).write_bytes(CONTENT)
    (tmp_path / MANIFEST).write_bytes(SAMPLE.encode())
    return tmp_path


def test_what_is_written_is_read_again(image: Path) -> None:
    assert read(str(image)) == SAMPLE
    assert differences(str(image), SAMPLE) == []


def test_the_same_image_has_the_same_manifest_whatever_the_order_of_its_parts() -> None:
    files = {"b": FileRecord(1, "x"), "a": FileRecord(2, "y")}
    turned = dict(reversed(files.items()))
    assert list(turned) != list(files)
    first, second = (dataclasses.replace(SAMPLE, files=each) for each in (files, turned))
    assert first.encode() == second.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b"shorter", "has 7 bytes instead of 9"),
        (b"an Initrd", "has another SHA-256"),
    ],
)
def test_every_kind_of_damage_is_told(image: Path, content: bytes | None, message: str) -> None:
    (image / INITRD).unlink()
    if content is not None:
        (image / INITRD).write_bytes(content)
    assert [message in line for line in differences(str(image), SAMPLE)] == [True]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "there is no image"),
        (b"{", "is no manifest"),
        (b"[]", "is no manifest"),
        (b"{}", "KeyError: 'schema'"),
        (b'{"schema": 2}', "has schema 2, this version reads 1"),
        (SAMPLE.encode().replace(b'"inputs"', b'"outputs"'), "KeyError: 'inputs'"),
    ],
)
def test_what_is_no_manifest_is_refused(image: Path, data: bytes | None, message: str) -> None:
    (image / MANIFEST).unlink()
    if data is not None:
        (image / MANIFEST).write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        read(str(image))
    assert "kata-ctl image build" in caught.value.hint
