"""What the first container's specification says of its pod."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from kata.sandbox.errors import InvalidRequestError, UnimplementedError
from kata.sandbox.pod import Pod, pod_of
from kata_api import oci

pytestmark = pytest.mark.unit


def _spec(namespaces: list[dict[str, str]], **fields: Any) -> oci.Spec:
    spec = {
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "hostname": "web",
        "linux": {"cgroupsPath": "/pods/1", "namespaces": namespaces},
        **fields,
    }
    return oci.decode_spec(json.dumps(spec).encode())


def test_a_container_alone_has_no_network_and_outlives_nothing() -> None:
    assert pod_of("s", _spec([{"type": "network"}])) == Pod("s", "web", "/pods/1")


def test_the_host_s_network_is_refused_however_it_is_asked_for() -> None:
    for namespaces in ([], [{"type": "network", "path": "/proc/self/ns/net"}]):
        with pytest.raises(UnimplementedError, match="host networking is not possible"):
            pod_of("s", _spec(namespaces))


def test_a_network_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidRequestError, match=r"/run/netns/absent cannot be entered: No such"):
        pod_of("s", _spec([{"type": "network", "path": "/run/netns/absent"}]))


@pytest.mark.parametrize("key", ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"])
def test_a_pod_ends_with_its_own_container(key: str) -> None:
    assert pod_of("s", _spec([{"type": "network"}], annotations={key: "s"})).ends_with_container


def test_the_resolver_is_that_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("# made by\n\nsearch a b\nnameserver 10.0.0.1\n")
    mount = {"destination": "/etc/resolv.conf", "source": str(tmp_path / "resolv.conf")}
    spec = _spec([{"type": "network"}], mounts=[mount | {"type": "bind", "options": ["rbind"]}])
    assert pod_of("s", spec).dns == ("search a b", "nameserver 10.0.0.1")


@pytest.mark.parametrize("kind", ["a FIFO", "a FIFO behind a link", "a terminal", "a directory"])
def test_a_resolver_that_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "resolv.conf"
    if kind == "a directory":
        path.mkdir()
    elif kind == "a terminal":
        path.symlink_to("/dev/ptmx")
    else:
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to("fifo") if "link" in kind else (tmp_path / "fifo").rename(path)
    mount = {"destination": "/etc/resolv.conf", "source": str(path), "type": "bind"}
    signal.alarm(5)  # ends the test, were it to wait
    try:
        assert pod_of("s", _spec([{"type": "network"}], mounts=[mount])).dns == ()
    finally:
        signal.alarm(0)
