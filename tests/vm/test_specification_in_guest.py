"""What only a guest's kernel can show of a specification: its limits, clocks, hooks, and files' privileges.

All containers of a test run in one guest, one after the other.
"""

import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

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

_TYPE: Final = "io.kubernetes.cri.container-type"
_CGROUP: Final = {
    "destination": "/sys/fs/cgroup",
    "type": "cgroup",
    "source": "cgroup",
    "options": ["ro", "nosuid", "nodev", "noexec"],
}
_NAMESPACES: Final = ("pid", "mount", "network", "ipc", "uts", "cgroup")
_SHOW: Final = "cd /sys/fs/cgroup; for f in $0; do echo $f $(cat $f); done"
_CAPABILITY_XATTR: Final = "security.capability"
# linux/capability.h: version 2 of the attribute, effective; permitted and inheritable, low and high
_NET_RAW: Final = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


class Pod:
    """A guest that containers are run in; each outcome is its output, or the error of its start."""

    def __init__(self, client: Client, folder: Path, root: Path) -> None:
        self._client, self._folder, self._root = client, folder, root
        self._runs = 0

    async def run(
        self,
        *args: str,
        process: dict[str, Any] | None = None,
        linux: dict[str, Any] | None = None,
        namespaces: Iterable[str] = _NAMESPACES,
        mounts: Iterable[dict[str, Any]] = (),
        **changes: Any,
    ) -> str:
        """Run a container to its end; `process`, `linux` and `mounts` are added to what it has."""
        self._runs += 1
        name = f"{self._folder.parent.name}-{self._runs}"
        bundle = self._folder / name
        bundle.mkdir(parents=True)
        spec = specification(*args, **changes)
        spec["annotations"] = {_TYPE: "container"}
        spec["process"] |= process or {}
        spec["mounts"] = [*spec["mounts"], _CGROUP, *mounts]
        spec["linux"]["namespaces"] = [{"type": kind} for kind in namespaces]
        spec["linux"] |= linux or {}
        (bundle / "config.json").write_text(json.dumps(spec))
        output = bundle / "output"
        request = pb.CreateTaskRequest(
            id=name,
            bundle=str(bundle),
            rootfs=[Mount(type="bind", source=str(self._root), options=["rbind"])],
            stdout=f"file://{output}",
            stderr=f"file://{output}",
        )
        try:
            await self._client.call(task.v2.CREATE, request, timeout=60)
        except RpcError as error:
            return f"create: {error.message}"
        try:
            await self._client.call(task.v2.START, pb.StartRequest(id=name), timeout=60)
            await self._client.call(task.v2.WAIT, pb.WaitRequest(id=name), timeout=60)
        except RpcError as error:
            return f"start: {error.message}"
        finally:
            await self._client.call(task.v2.KILL, pb.KillRequest(id=name, signal=9, all=True))
            await self._client.call(task.v2.WAIT, pb.WaitRequest(id=name), timeout=60)
            await self._client.call(task.v2.DELETE, pb.DeleteRequest(id=name), timeout=60)
        return output.read_text().strip()

    async def limits(self, files: str, **resources: Any) -> str:
        """Return lines of files of the container's cgroup."""
        return await self.run("/bin/sh", "-c", _SHOW, files, linux={"resources": resources})

    async def sh(self, script: str, **changes: Any) -> str:
        """Run a shell."""
        return await self.run("/bin/sh", "-c", script, **changes)


def _throttled(device: dict[str, int]) -> dict[str, Any]:
    return {"blockIO": {"throttleReadBpsDevice": [device]}}


@asynccontextmanager
async def _pod(bundle: Bundle, configured: Configured, root: Path) -> AsyncIterator[Pod]:
    spec = specification("/bin/sh", "-c", "sleep 1000")
    bundle.write(spec | {"annotations": {_TYPE: "sandbox"}})
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        yield Pod(client, bundle.path / "containers", root)
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)


async def test_limits(bundle: Bundle, configured: Configured, root: Path) -> None:
    _link(root, "cat", "sleep")
    async with _pod(bundle, configured, root) as pod:
        found = await pod.limits(
            "cpu.weight cpu.max cpu.max.burst memory.max memory.low memory.high pids.max "
            "hugetlb.2MB.max cpuset.cpus cpuset.mems",
            cpu={
                "shares": 512,
                "quota": 50000,
                "period": 100000,
                "burst": 20000,
                "cpus": "0",
                "mems": "0",
            },
            memory={"limit": 96 << 20, "reservation": 1 << 20},
            pids={"limit": 42},
            # Of each size that the host has, as kubelet asks; none of the last can be used here.
            hugepageLimits=[{"pageSize": "2MB", "limit": 0}, {"pageSize": "4PB", "limit": 0}],
            unified={"memory.high": "52428800", "pids.max": "43"},
        )
        assert found.splitlines() == [
            "cpu.weight 20",
            "cpu.max 50000 100000",
            "cpu.max.burst 20000",
            "memory.max 100663296",
            "memory.low 1048576",
            "memory.high 52428800",
            "pids.max 43",
            "hugetlb.2MB.max 0",
            "cpuset.cpus 0",
            "cpuset.mems 0",
        ]
        found = await pod.limits(
            "cpu.idle io.weight cpuset.cpus",
            cpu={"idle": 1, "cpus": "0,600"},  # processors of a host that the guest has not
            blockIO={"weight": 500},
        )
        assert found.splitlines() == ["cpu.idle 1", "io.weight default 4950", "cpuset.cpus"]
        for says, resources in _REFUSED_LIMITS:
            assert re.match(f"create: .*{says}", await pod.limits("x", **resources)), says


_DEVICE: Final = {"major": 8, "minor": 0}
_REFUSED_LIMITS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("rbps=9.* the guest has no such block device", _throttled({"rate": 9} | _DEVICE)),
    ("io.bfq.weight.* not offer it", {"blockIO": {"weightDevice": [{"weight": 99} | _DEVICE]}}),
    ("the guest has no such RDMA device", {"rdma": {"mlx5_0": {"hcaHandles": 9}}}),
    ("hugetlb.4PB.max.* not offer it", {"hugepageLimits": [{"pageSize": "4PB", "limit": 1}]}),
    ("must be in the form CONTROLLER.PARAMETER", {"unified": {"memory": "1"}}),
    ("nothing.max.* not offer it", {"unified": {"nothing.max": "1"}}),
    ("'banana' to .*memory.max: Invalid argument", {"unified": {"memory.max": "banana"}}),
    ("linux.resources.network: .*cgroup v2", {"network": {"classID": 5}}),
    ("realtimeRuntime: .*cgroup v2", {"cpu": {"realtimeRuntime": 5}}),
    ("'x' is no list of numbers", {"cpu": {"cpus": "x"}}),
)


async def test_process_clocks_and_hooks(bundle: Bundle, configured: Configured, root: Path) -> None:
    _link(root, "cat", "sleep", "cut", "grep")
    async with _pod(bundle, configured, root) as pod:
        found = await pod.sh(
            "cd /proc; cat sys/kernel/domainname self/personality; cut -d. -f1 uptime; "
            "cut -d' ' -f40,41 self/stat; grep -c bind:0 self/numa_maps; umask",
            domainname="made.example",
            namespaces=(*_NAMESPACES, "time"),
            process={
                "scheduler": {"policy": "SCHED_FIFO", "priority": 7},
                "user": {"uid": 0, "gid": 0, "umask": 0o27},
            },
            linux={
                "personality": {"domain": "LINUX32"},
                "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"},
                "timeOffsets": {"boottime": {"secs": 9000000}},
            },
        )
        domain, persona, uptime, scheduled, bound, umask = found.splitlines()
        assert (domain, persona, scheduled) == ("made.example", "00000008", "7 1")
        assert 9000000 < int(uptime) < 9100000
        assert int(bound) > 0
        assert umask == "0027"
        # The agent takes turns with containers.
        nice = "cut -d' ' -f19 /proc/1/stat /proc/self/stat"
        found = await pod.sh(nice, namespaces=[kind for kind in _NAMESPACES if kind != "pid"])
        assert found.split() == ["0", "0"]
        script = "pwd >> tmp/made; cat >> tmp/made; echo >> tmp/made"
        found = await pod.sh(
            "cat /tmp/made",
            hooks={
                # The first is a program of the guest, the second one of the container.
                "createContainer": [{"path": "/bin/busybox", "args": ["sh", "-c", script]}],
                "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
            },
            mounts=[{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}],
        )
        folder, creating, slash, created = found.splitlines()
        assert re.fullmatch(r"/run/kata-containers/.*/rootfs", folder)
        assert slash == "/"
        states = [json.loads(text) for text in (creating, created)]
        assert [state["status"] for state in states] == ["creating", "created"]
        assert all(state["bundle"] == os.path.dirname(folder) for state in states)
        missing = {"createContainer": [{"path": "/no/hook"}]}
        assert await pod.sh("true", hooks=missing) == (
            "create: error running createContainer hook #0 /no/hook: no such file or directory"
        )
        fails = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no; exit 4"]}]}
        assert await pod.sh("true", hooks=fails) == (
            "start: error running startContainer hook #0: /bin/sh: exit status 4, "
            "stdout: no, stderr: "
        )


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A folder with a mount below it."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree / "below"], check=True)
    yield tree
    subprocess.run(["umount", tree / "below"], check=True)


@pytest.mark.parametrize("shared_fs", ["virtio-fs", "virtio-9p"])
async def test_files_keep_their_privileges(
    bundle: Bundle, configured: Configured, root: Path, tree: Path, shared_fs: str
) -> None:
    """And binds of host folders are read-only as deep as they are asked to be."""
    _link(root, "cat", "sleep", "grep", "mkdir")
    configured.set("hypervisor.qemu", shared_fs=f'"{shared_fs}"')
    # A program that keeps what it is given, unlike busybox, with what it needs.
    for needed in (
        "/usr/bin/head",
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libc.so.6",
    ):
        copy = root / needed[1:]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(needed, copy)
    for name, mode in (
        ("plain", 0o755),
        ("setuid", 0o4755),
        ("setgid", 0o2755),
        ("capable", 0o755),
    ):
        shutil.copy("/usr/bin/head", root / name)
        os.chown(root / name, 7, 8)
        (root / name).chmod(mode)
    os.setxattr(root / "capable", _CAPABILITY_XATTR, _NET_RAW)
    show = "for p in plain setuid setgid capable; do /$p -n 99 /proc/self/status; done"
    user = {"user": {"uid": 1000, "gid": 1000}, "noNewPrivileges": False}
    bounding = ["CAP_NET_RAW", "CAP_CHOWN"]
    async with _pod(bundle, configured, root) as pod:
        found = await pod.sh(
            f"({show}) | grep -E '^(Uid|Gid|CapEff)'",
            process=user | {"capabilities": {"bounding": bounding}},
        )
        ids = re.findall(r"[UG]id:\t\d+\t(\d+)", found)
        assert ids == ["1000", "1000", "7", "1000", "1000", "8", "1000", "1000"]
        # QEMU's 9p passes on the user's attributes and access lists only.
        capable = 1 << 13 if shared_fs == "virtio-fs" else 0
        effective = [int(each, 16) for each in re.findall(r"CapEff:\t(\w+)", found)]
        assert effective == [0, 0, 0, capable]
        options = {"ro": ["rbind", "ro"], "rro": ["rbind", "rro"]}
        found = await pod.sh(
            "for d in ro rro; do mkdir /$d/x /$d/below/x-$d; done; true",
            mounts=[
                {"destination": f"/{name}", "type": "bind", "source": str(tree), "options": how}
                for name, how in options.items()
            ],
        )
        refused = re.findall(r"directory '(\S+)'", found)
        assert {"/ro/x", "/rro/x", "/rro/below/x-rro"} <= set(refused)


def _link(root: Path, *applets: str) -> None:
    for applet in applets:
        (root / "bin" / applet).symlink_to("busybox")
