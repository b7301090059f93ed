"""The manifest: what an image is made of, and the digests that verify it.

It lies beside the image's files as JSON and is written last, so that it never describes files
that are not there.
"""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from kata.image.digests import sha256_of_file
from kata.image.errors import ImageError

KERNEL = "vmlinux.container"
INITRD = "kata-containers-initrd.img"
MANIFEST = "kata-containers-image.json"
SCHEMA = 1
_BUILD_HINT = "run `kata-ctl image build`"


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """A distribution package that the image is made of."""

    name: str
    version: str
    architecture: str
    sha256: str


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """The guest kernel: its release and the paths of its modules in the image."""

    release: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PythonRecord:
    """The guest's interpreter: its version and the names of the modules in the image."""

    version: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProtobufRecord:
    """The protobuf runtime: its version and the SHA-256 of each file, by installed path."""

    version: str
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of the image: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image, described.

    `inputs` is the SHA-256 of everything that decides the image's bytes, `agent` that of the
    sources of the guest's own packages. `schema` changes when a reader of the old form would
    misread the new one.
    """

    schema: int
    inputs: str
    distribution: str
    architecture: str
    kernel: KernelRecord
    python: PythonRecord
    agent: str
    protobuf: ProtobufRecord
    packages: tuple[PackageRecord, ...]
    files: dict[str, FileRecord]

    def encode(self) -> bytes:
        """Return indented JSON with sorted keys: the same image, the same bytes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode() + b"\n"


def decode(data: bytes, what: str) -> Manifest:
    """Read a manifest out of JSON; `what` names it in errors.

    Raises `ImageError` if it is no manifest, or one that this version does not understand.
    """
    try:
        plain: dict[str, Any] = json.loads(data)
        schema = plain["schema"]
        if schema != SCHEMA:
            raise ImageError(
                f"{what} has schema {schema}, this version reads {SCHEMA}", _BUILD_HINT
            )
        return Manifest(
            schema=schema,
            inputs=str(plain["inputs"]),
            distribution=str(plain["distribution"]),
            architecture=str(plain["architecture"]),
            kernel=KernelRecord(plain["kernel"]["release"], tuple(plain["kernel"]["modules"])),
            python=PythonRecord(plain["python"]["version"], tuple(plain["python"]["modules"])),
            agent=str(plain["agent"]),
            protobuf=ProtobufRecord(plain["protobuf"]["version"], dict(plain["protobuf"]["files"])),
            packages=tuple(PackageRecord(**record) for record in plain["packages"]),
            files={name: FileRecord(**record) for name, record in plain["files"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(
            f"{what} is no manifest of an image ({type(error).__name__}: {error})", _BUILD_HINT
        ) from error


def read(directory: str) -> Manifest:
    """Read the manifest of the image in a directory. Raises `ImageError`, also if there is none."""
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"there is no image in {directory}", _BUILD_HINT) from error
    return decode(data, path)


def differences(directory: str, manifest: Manifest) -> list[str]:
    """List, in words, how the files in a directory differ from their manifest; none if intact."""
    found = []
    for name, record in sorted(manifest.files.items()):
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            found.append(f"{name} is missing")
        elif (size := os.stat(path).st_size) != record.size:
            found.append(f"{name} has {size} bytes instead of {record.size}")
        elif sha256_of_file(path) != record.sha256:
            found.append(f"{name} has another SHA-256 than when it was built")
    return found
