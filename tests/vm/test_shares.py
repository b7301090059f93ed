"""Files between host and container, over each kind of share."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import GUEST_KERNEL

from kata_api import task
from kata_api.containerd import task_pb2 as pb

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
    pytest.mark.parametrize("shared_fs", ["virtio-fs", "virtio-9p"]),
]

_SCRIPT = r"""
set -x
echo from the guest > /new
cat /old
cat /data/in
echo out > /data/out
cat /single
busybox sha256sum /data/big
echo no > /readonly/x
busybox ln /new /hard; busybox ln -s new /soft; busybox chown 12:34 /new; busybox chmod 4751 /new
busybox stat -c '%u %g %a %h' /new
busybox grep -c ' /data ' /proc/mounts
"""


def _bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    words = ["rbind", *options]
    return {"destination": destination, "type": "bind", "source": str(source), "options": words}


async def _run(bundle: Bundle, configured: Configured, root: Path) -> tuple[int, str]:
    """Run the container to its end; return its exit status and what it wrote."""
    log = bundle.path / "output"
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root, stdout=f"file://{log}")
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        status = (await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))).exit_status
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    return status, log.read_text()


async def test_root_and_binds_both_ways(
    bundle: Bundle, configured: Configured, root: Path, tmp_path: Path, shared_fs: str
) -> None:
    configured.set("hypervisor.qemu", shared_fs=f'"{shared_fs}"')
    data, readonly = tmp_path / "data", tmp_path / "readonly"
    data.mkdir()
    readonly.mkdir()
    (root / "old").write_text("old content\n")
    (data / "in").write_text("in content\n")
    (data / "big").write_bytes(os.urandom(5 << 20))
    (tmp_path / "single").write_text("single content\n")
    extra = [
        _bind(data, "/data"),
        _bind(readonly, "/readonly", "ro"),
        _bind(tmp_path / "single", "/single", "ro"),
    ]
    spec = specification("/bin/sh", "-c", _SCRIPT)
    bundle.write(spec | {"mounts": [*spec["mounts"], *extra]})
    status, output = await _run(bundle, configured, root)
    assert status == 0, output
    lines = output.splitlines()
    assert lines[:3] == ["old content", "in content", "single content"]
    digest = await _sha256(data / "big")
    assert lines[3] == f"{digest}  /data/big"
    assert lines[4:] == ["12 34 4751 2", "1"]
    assert (data / "out").read_text() == "out\n"
    assert not list(readonly.iterdir())
    status_ = (root / "new").stat()
    assert (status_.st_uid, status_.st_gid, status_.st_mode & 0o7777) == (12, 34, 0o4751)
    assert (root / "hard").stat().st_ino == status_.st_ino
    assert (root / "soft").readlink() == Path("new")


async def _sha256(path: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        "sha256sum", str(path), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return said.split()[0].decode()


async def test_a_missing_source_is_named(
    bundle: Bundle, configured: Configured, root: Path, shared_fs: str
) -> None:
    configured.set("hypervisor.qemu", shared_fs=f'"{shared_fs}"')
    spec = specification("/bin/sh")
    bundle.write(spec | {"mounts": [*spec["mounts"], _bind(Path("/no/such/place"), "/data")]})
    async with await bundle.connect() as client:
        with pytest.raises(Exception, match="/no/such/place on /data: the source does not exist"):
            await bundle.create(client, configured.path, root)
        await bundle.shut_down(client)
