"""The socket of a shim and the file that names it."""

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from kata.host.unix_socket import is_served
from kata.sandbox.identity import SOCKET_DIRECTORY
from kata.shim import address

pytestmark = pytest.mark.unit


def test_path_is_the_hash_that_containerd_users_know() -> None:
    digest = hashlib.sha256(b"/run/containerd/containerd.sock/k8s.io/abc").hexdigest()
    path = address.socket_path("/run/containerd/containerd.sock", "k8s.io", "abc", SOCKET_DIRECTORY)
    assert path == f"/run/containerd/s/{digest}"
    assert len(path) < 108


@pytest.mark.parametrize(
    ("annotations", "group"),
    [
        (None, "c1"),
        ({"other": "x"}, "c1"),
        ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod"),
        ({"io.kubernetes.cri-o.SandboxID": "pod"}, "pod"),
    ],
)
def test_grouping(tmp_path: Path, annotations: dict[str, str] | None, group: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"annotations": annotations}))
    assert address.grouping_id(str(tmp_path), "c1") == group


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ("[1]", "an object of strings"),
        ('{"annotations": 3}', "an object of strings"),
        ('{"annotations": {"io.kubernetes.cri.sandbox-id": 5}}', "an object of strings"),
        ('{"annotations": {"io.kubernetes.cri.sandbox-id": "../x"}}', "no sandbox id"),
    ],
)
def test_a_specification_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        address.grouping_id(str(tmp_path), "c1")


def test_listen_replaces_a_dead_socket_and_is_private(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    first = address.listen(path)
    assert is_served(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    first.close()
    assert not is_served(path)
    with address.listen(path) as second:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        assert second.fileno() >= 0


def test_address_file_round_trip(tmp_path: Path) -> None:
    assert address.read(str(tmp_path)) is None
    address.write(str(tmp_path), "/run/containerd/s/x")
    assert (tmp_path / "address").read_bytes() == b"unix:///run/containerd/s/x"
    assert address.read(str(tmp_path)) == "/run/containerd/s/x"
