"""OCI image archives, written by the rules of the image specification 1.1.

An archive is a tar of an image layout: one index, one manifest, one configuration, one layer. The
same content always gives the same bytes: entries are sorted and carry no time and no owner's name.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
# Level 1: a layer is written once and read from a local disk; higher levels only cost time.
_GZIP_LEVEL: Final = 1


@dataclass(frozen=True, slots=True)
class Blob:
    """Content with the media type by which it is described."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 by which the layout names the content."""
        return hashlib.sha256(self.data).hexdigest()

    def descriptor(self, annotations: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return the content's descriptor as the specification defines it."""
        described: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": f"sha256:{self.digest}",
            "size": len(self.data),
        }
        return described | ({"annotations": dict(annotations)} if annotations else {})


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder in a layer; the mode's default is what images usually have."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class File:
    """A regular file in a layer."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in a layer."""

    path: str
    target: str


def layer(entries: Iterable[Folder | File | Link]) -> bytes:
    """Return a layer's tar with root-owned entries, sorted by path, dated 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(entries, key=lambda entry: entry.path):
            info = tarfile.TarInfo(entry.path)
            match entry:
                case Folder():
                    info.type, info.mode = tarfile.DIRTYPE, entry.mode
                    tar.addfile(info)
                case File():
                    info.mode, info.size = entry.mode, len(entry.data)
                    tar.addfile(info, io.BytesIO(entry.data))
                case Link():
                    info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
                    tar.addfile(info)
    return buffer.getvalue()


def write_image(path: Path, name: str, layer_tar: bytes, command: Sequence[str]) -> None:
    """Write an image archive that `ctr image import` stores under `name`.

    `path` appears whole or not at all. The image is for linux/amd64, runs `command` by default,
    and holds one layer.
    """
    packed = Blob(_LAYER, gzip.compress(layer_tar, compresslevel=_GZIP_LEVEL, mtime=0))
    config = _json_blob(
        _CONFIG,
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": list(command),
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer_tar).hexdigest()}"],
            },
        },
    )
    manifest = _json_blob(
        _MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config.descriptor(),
            "layers": [packed.descriptor()],
        },
    )
    names = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = _json_blob(
        _INDEX,
        {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [manifest.descriptor(names)]},
    )
    members = {"oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode()}
    members["index.json"] = index.data
    members |= {f"blobs/sha256/{blob.digest}": blob.data for blob in (manifest, config, packed)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    partial.rename(path)


def _json_blob(media_type: str, content: Mapping[str, object]) -> Blob:
    return Blob(media_type, json.dumps(content, sort_keys=True).encode())
