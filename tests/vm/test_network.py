"""A pod's network in its guest: what is there, what can be reached, what is left of it afterwards."""

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.bundle import Bundle, Configured, specification, wait_gone
from lab.paths import GUEST_KERNEL
from lab.pod_namespace import Namespace, namespace

from kata.network import remains
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_PORT = 8000


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """The pod's namespace."""
    with namespace() as made:
        yield made


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Namespace]:
    """What is at the other end of the pod's links: a namespace with a web server."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www/large").write_bytes(os.urandom(1 << 20))
    with namespace() as made, made.web_server(tmp_path / "www", _PORT):
        yield made


def _connect(pod: Namespace, node: Namespace) -> None:
    pod.add_pair("eth0", "10.9.0.2/24", "fd00:9::2/64", peer=node)
    node.ip("address add 10.9.0.1/24 dev eth0-host")
    node.ip("address add fd00:9::1/64 dev eth0-host nodad")
    pod.ip("route add default via 10.9.0.1 metric 7")
    pod.ip("-6 route add default via fd00:9::1")


def _in(pod: Namespace, *words: str, **changes: Any) -> dict[str, Any]:
    """Return the specification of a container in the pod's namespace."""
    spec = specification(*words, **changes)
    for each in spec["linux"]["namespaces"]:
        if each["type"] == "network":
            each["path"] = pod.path
    return spec


async def _run(
    bundle: Bundle, configured: Configured, root: Path, pod: Namespace, script: str
) -> str:
    """Run a container to its end; return what it wrote."""
    bundle.write(_in(pod, "/bin/sh", "-c", script))
    log = bundle.path / "output"
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root, stdout=f"file://{log}")
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(pod.path).st_ino
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        status = (await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))).exit_status
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    said = log.read_text()
    assert status == 0, said
    return said


_LOOK = """
set -e
busybox ip -o address; busybox ip route; busybox ip -6 route
busybox wget -q -O - http://10.9.0.1:8000/large | busybox md5sum
busybox wget -q -O - http://[fd00:9::1]:8000/large | busybox md5sum
"""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"runtime": {"internetworking_model": '"macvtap"'}},
        {"hypervisor.qemu": {"network_queues": "2"}, "factory": {"enable_template": "false"}},
    ],
    ids=["tcfilter", "macvtap", "booted, two queues"],
)
async def test_the_guest_has_what_the_pod_has(
    bundle: Bundle,
    configured: Configured,
    root: Path,
    pod: Namespace,
    node: Namespace,
    tmp_path: Path,
    settings: dict[str, dict[str, str]],
) -> None:
    for number, (table, values) in enumerate(settings.items()):
        drop_in = configured.path.parent / "config.d" / f"6{number}-network.toml"
        lines = [f"{key} = {value}" for key, value in values.items()]
        drop_in.write_text("\n".join([f"[{table}]", *lines, ""]))
    _connect(pod, node)
    links = pod.ip("-o link")
    said = await _run(bundle, configured, root, pod, _LOOK)
    assert "eth0    inet 10.9.0.2/24" in said
    assert "inet6 fd00:9::2/64" in said
    assert "default via 10.9.0.1 dev eth0  metric 7" in said
    assert "default via fd00:9::1 dev eth0" in said
    content = (tmp_path / "www/large").read_bytes()
    assert said.count(hashlib.md5(content, usedforsecurity=False).hexdigest()) == 2
    assert pod.ip("-o link") == links
    assert not remains.exist(pod.path)


async def test_an_interface_that_comes_before_the_start(
    bundle: Bundle, configured: Configured, root: Path, pod: Namespace, node: Namespace
) -> None:
    """Docker connects a container's network once it has been created."""
    bundle.write(_in(pod, "/bin/sh", "-c", "busybox wget -q -O - http://10.9.0.1:8000/large"))
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        _connect(pod, node)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        assert (await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))).exit_status == 0
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    assert not remains.exist(pod.path)


async def test_a_killed_shim_leaves_the_links_as_they_were(
    bundle: Bundle, configured: Configured, root: Path, pod: Namespace, node: Namespace
) -> None:
    _connect(pod, node)
    links = pod.ip("-o link")
    bundle.write(_in(pod, "/bin/sh", "-c", "sleep 1000"))
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        assert remains.exist(pod.path)
        await _kill_shim(bundle, client)
    assert bundle.run("-bundle", str(bundle.path), "delete").returncode == 0
    assert pod.ip("-o link") == links
    assert not remains.exist(pod.path)


async def _kill_shim(bundle: Bundle, client: Client) -> None:
    pid = bundle.shim_pid
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await client.wait_closed()
    await wait_gone(pid)
