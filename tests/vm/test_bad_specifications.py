"""Specifications that cannot be carried out: the error names what is wrong, and the pod goes on."""

from pathlib import Path
from typing import Any

import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import GUEST_KERNEL

from kata_api import task
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.types_pb2 import Mount
from ttrpc import RpcError
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_FOREIGN = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100)
"""The head of a program for RISC-V."""


def _process(**changes: Any) -> dict[str, Any]:
    process = specification("/bin/sh")["process"] | changes
    return specification("/bin/sh", process=process)


def _mount(**mount: Any) -> dict[str, Any]:
    spec = specification("/bin/sh")
    return spec | {"mounts": [*spec["mounts"], mount]}


def _seccomp(action: str) -> dict[str, Any]:
    spec = specification("/bin/sh")
    return spec | {"linux": spec["linux"] | {"seccomp": {"defaultAction": action}}}


# What is wrong, and words that the error has to have, whatever their case.
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "missing": (_process(args=["/no/such/program"]), ("/no/such/program", "no such file")),
    "not in PATH": (_process(args=["nowhere"]), ("nowhere", "not found")),
    "not executable": (_process(args=["/plain"]), ("/plain", "permission denied")),
    "another processor": (_process(args=["/foreign"]), ("/foreign", "exec format error")),
    "cwd is a file": (_process(cwd="/plain"), ("/plain", "not a directory")),
    "user": (_process(user={"uid": 2**32 - 1, "gid": 0}), ("user", "invalid argument")),
    "mount source": (
        _mount(destination="/m", type="bind", source="/no/such/source", options=["rbind"]),
        ("/no/such/source", "/m", "does not exist"),
    ),
    "mount type": (_mount(destination="/m", type="nosuchfs", source="x"), ("nosuchfs", "/m")),
    "seccomp action": (_seccomp("SCMP_ACT_NONSENSE"), ("SCMP_ACT_NONSENSE",)),
}


async def _error(client: Client, bundle: Bundle, path: Path, root: Path) -> str:
    """Create and start a container of the bundle's pod; return what it fails with."""
    name = path.name
    request = pb.CreateTaskRequest(
        id=name,
        bundle=str(path),
        rootfs=[Mount(type="bind", source=str(root), options=["rbind"])],
    )
    try:
        await client.call(task.v2.CREATE, request, timeout=60)
    except RpcError as error:
        return error.message
    try:
        await client.call(task.v2.START, pb.StartRequest(id=name), timeout=60)
    except RpcError as error:
        return error.message
    finally:
        await client.call(task.v2.KILL, pb.KillRequest(id=name, signal=9, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=name))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=name))
    return ""


async def test_errors_name_what_is_wrong(
    bundle: Bundle, configured: Configured, root: Path, tmp_path: Path
) -> None:
    (root / "plain").write_text("text")
    (root / "foreign").write_bytes(_FOREIGN)
    (root / "foreign").chmod(0o755)
    unclear = {}
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        for number, (what, (spec, words)) in enumerate(CASES.items()):
            path = tmp_path / f"{bundle.id}-{number}"
            path.mkdir()
            annotations = {"io.kubernetes.cri.sandbox-id": bundle.id}
            other = Bundle(path, container_id=path.name)
            other.write(spec | {"annotations": annotations})
            other.close()
            said = await _error(client, bundle, path, root)
            if not said or not all(word.lower() in said.lower() for word in words):
                unclear[what] = said
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    assert not unclear
