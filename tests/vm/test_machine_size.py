"""Machines that are as big as their pods' limits ask for, at their start and while they run."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import patient_shim
import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import GUEST_KERNEL

from kata.host import capacity
from kata.sandbox import inventory
from kata_api import any as packed
from kata_api import task
from kata_api.containerd import cgroups_v1_pb2
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.types_pb2 import Mount
from ttrpc import RpcError, StatusCode
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
    pytest.mark.skipif(capacity.processors() < 2, reason="one processor is all there is to give"),
]

_MIB = 1 << 20
_DEFAULT = 384
"""MiB that the guest has by default."""

_SIZES = "echo cpus $(busybox nproc); busybox grep MemTotal /proc/meminfo"
_CRI = "io.kubernetes.cri."


class _Pod:
    """A sandbox whose first container is there for it alone, and further containers in it."""

    def __init__(self, client: Client, bundle: Bundle, root: Path) -> None:
        self.client, self.bundle, self._root = client, bundle, root
        self._asked = 0

    async def create(self, name: str, *, annotations: dict[str, str], **resources: Any) -> str:
        container_id, folder = f"{self.bundle.id}-{name}", self.bundle.path / name
        folder.mkdir()
        spec = specification("/bin/busybox", "sleep", "1000", annotations=annotations)
        spec["linux"]["resources"] = resources
        (folder / "config.json").write_text(json.dumps(spec))
        mount = Mount(type="bind", source=str(self._root), options=["rbind"])
        request = pb.CreateTaskRequest(id=container_id, bundle=str(folder), rootfs=[mount])
        await self.client.call(task.v2.CREATE, request, timeout=60)
        await self.client.call(task.v2.START, pb.StartRequest(id=container_id))
        return container_id

    async def ask(self, container_id: str, script: str) -> tuple[int, str]:
        """Run a script in a container; return its exit status and what it wrote."""
        self._asked += 1
        exec_id, output = f"e{self._asked}", self.bundle.path / f"e{self._asked}"
        process = {"cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"]}
        spec = packed.pack_json(packed.PROCESS_URL, json.dumps(process).encode())
        request = pb.ExecProcessRequest(
            id=container_id, exec_id=exec_id, spec=spec, stdout=f"file://{output}"
        )
        await self.client.call(task.v2.EXEC, request)
        await self.client.call(task.v2.START, pb.StartRequest(id=container_id, exec_id=exec_id))
        waited = pb.WaitRequest(id=container_id, exec_id=exec_id)
        answer = await self.client.call(task.v2.WAIT, waited, timeout=60)
        await self.client.call(task.v2.DELETE, pb.DeleteRequest(id=container_id, exec_id=exec_id))
        return answer.exit_status, output.read_text() if output.exists() else ""

    async def size(self, container_id: str) -> tuple[int, int]:
        """Return the processors and the MiB of the guest, as a container sees them."""
        _, text = await self.ask(container_id, _SIZES)
        words = text.split()
        return int(words[1]), int(words[3]) >> 10

    async def allocate(self, container_id: str, mib: int) -> bool:
        """Tell whether a process of a container can use that much memory."""
        status, _ = await self.ask(
            container_id, f"busybox dd if=/dev/zero of=/dev/null bs={mib}M count=1 2>/dev/null"
        )
        assert status in (0, 128 + signal.SIGKILL)
        return status == 0

    async def update(self, container_id: str, **resources: Any) -> float:
        """Change limits; return the seconds that it took."""
        value = packed.pack_json(packed.LINUX_RESOURCES_URL, json.dumps(resources).encode())
        begin = time.monotonic()
        request = pb.UpdateTaskRequest(id=container_id, resources=value)
        await self.client.call(task.v2.UPDATE, request, timeout=60)
        return time.monotonic() - begin

    async def refused(self, container_id: str, **resources: Any) -> str:
        with pytest.raises(RpcError) as caught:
            await self.update(container_id, **resources)
        assert caught.value.code == StatusCode.FAILED_PRECONDITION
        return caught.value.message

    async def limit(self, container_id: str) -> int:
        """Return the memory limit of a container in MiB."""
        answer = await self.client.call(task.v2.STATS, pb.StatsRequest(id=container_id))
        if answer.stats.type_url != cgroups_v1_pb2.Metrics.DESCRIPTOR.full_name:
            pytest.skip("the numbers are compared in the shape of version 1")
        return packed.unpack(answer.stats, cgroups_v1_pb2.Metrics).memory.usage.limit // _MIB

    async def end(self, *container_ids: str) -> None:
        for container_id in (*container_ids, self.bundle.id):
            await self.client.call(task.v2.KILL, pb.KillRequest(id=container_id, signal=9))
            await self.client.call(task.v2.WAIT, pb.WaitRequest(id=container_id))
            await self.client.call(task.v2.DELETE, pb.DeleteRequest(id=container_id))
        await self.bundle.shut_down(self.client)


def _sandbox(bundle: Bundle, **annotations: str) -> dict[str, Any]:
    """Return the specification of a pod's first container."""
    told = {f"{_CRI}container-type": "sandbox", f"{_CRI}sandbox-id": bundle.id}
    told |= {f"{_CRI}sandbox-{name.replace('_', '-')}": text for name, text in annotations.items()}
    return specification("/bin/busybox", "sleep", "1000", annotations=told)


def _told(bundle: Bundle) -> tuple[int, int]:
    """Return the vCPUs and MiB that `kata-ctl` has the sandbox have."""
    (found,) = (each for each in inventory.sandboxes() if each.id == bundle.id)
    return found.facts["vcpus"], found.facts["memory_mib"]


def _in_pod(bundle: Bundle) -> dict[str, str]:
    return {f"{_CRI}container-type": "container", f"{_CRI}sandbox-id": bundle.id}


async def test_a_restored_machine_has_its_pods_size_and_grows_for_a_changed_limit(
    configured: Configured, bundle: Bundle, root: Path, tmp_path: Path
) -> None:
    configured.set(
        "hypervisor.qemu",
        default_memory=str(_DEFAULT),
        default_maxmemory="2304",
        memory_slots="3",
        shared_fs='"virtio-fs"',
        enable_annotations="[]",
    )
    drop_in = configured.path.parent / "config.d" / "60-templates.toml"
    drop_in.write_text(f'[factory]\nenable_template = true\ntemplate_path = "{tmp_path}/store"\n')
    patient_shim.use(bundle)
    content = os.urandom(48 * _MIB)
    (root / "tmp" / "file").write_bytes(content)
    bundle.write(_sandbox(bundle, memory=str(640 * _MIB), cpu_quota="50000", cpu_period="100000"))
    async with await bundle.connect() as client:
        pod = _Pod(client, bundle, root)
        await bundle.create(client, configured.path, root)
        assert "boots, for" not in bundle.log()
        assert _told(bundle) == (2, _DEFAULT + 640)
        one = await pod.create(
            "one",
            annotations=_in_pod(bundle),
            memory={"limit": 640 * _MIB},
            cpu={"quota": 50_000, "period": 100_000},
        )
        vcpus, first = await pod.size(one)
        assert vcpus == 2
        assert _DEFAULT + 640 - 150 < first < _DEFAULT + 640
        assert await pod.allocate(one, 600)  # more than the template has
        assert not await pod.allocate(one, 700)

        took = await pod.update(one, memory={"limit": 1100 * _MIB})
        _, second = await pod.size(one)
        assert second == first + 512  # 460, and whole blocks of 128
        assert _told(bundle) == (2, _DEFAULT + 640 + 512)
        assert await pod.allocate(one, 1050)
        # virtiofsd reads into the new memory, too
        _, text = await pod.ask(one, "busybox md5sum /tmp/file")
        assert text.split()[0] == hashlib.md5(content, usedforsecurity=False).hexdigest()

        await pod.update(one, memory={"limit": 100 * _MIB})
        assert not await pod.allocate(one, 200)
        assert (await pod.size(one))[1] == second
        for much in (4000, 1 << 30):
            text = await pod.refused(one, memory={"limit": much * _MIB}, cpu={"quota": 40_000})
            assert "can have 2304, not" in text
            assert "raise default_maxmemory" in text
        assert await pod.limit(one) == 100

        again = await pod.update(one, memory={"limit": 1200 * _MIB})
        assert min(took, again) < 10  # both plug memory in, and others may starve one of them
        text = await pod.refused(one, memory={"limit": 1400 * _MIB})
        assert "all 3 memory slots of the virtual machine are in use: raise memory_slots" in text
        assert await pod.limit(one) == 1200
        await pod.end(one)


async def test_a_booted_machine_grows_with_each_container_if_it_is_dynamic(
    configured: Configured, bundle: Bundle, root: Path
) -> None:
    configured.set("hypervisor.qemu", default_memory=str(_DEFAULT), shared_fs='"virtio-fs"')
    for number, text in enumerate(
        ("[factory]\nenable_template = false", "[runtime]\nstatic_sandbox_resource_mgmt = false")
    ):
        (configured.path.parent / "config.d" / f"6{number}-test.toml").write_text(f"{text}\n")
    bundle.write(_sandbox(bundle, memory=str(640 * _MIB), cpu_quota="50000"))
    async with await bundle.connect() as client:
        pod = _Pod(client, bundle, root)
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        vcpus, first = await pod.size(bundle.id)
        assert vcpus == 1  # the annotations say what will come
        assert first < _DEFAULT
        inside = _in_pod(bundle)
        one = await pod.create("one", annotations=inside, memory={"limit": 500 * _MIB})
        assert await pod.size(one) == (1, first + 512)
        assert await pod.allocate(one, 480)
        two = await pod.create("two", annotations=inside, cpu={"quota": 50_000})
        assert await pod.size(two) == (2, first + 512)
        await pod.end(one)


async def test_a_container_outside_of_a_pod_can_use_what_its_limits_say(
    configured: Configured, bundle: Bundle, root: Path
) -> None:
    configured.set("hypervisor.qemu", default_memory=str(_DEFAULT), shared_fs='"virtio-9p"')
    drop_in = configured.path.parent / "config.d" / "60-test.toml"
    drop_in.write_text("[factory]\nenable_template = false\n")
    spec = specification("/bin/busybox", "sleep", "1000")
    spec["linux"]["resources"] = {"memory": {"limit": 700 * _MIB}, "cpu": {"quota": 100_000}}
    bundle.write(spec)
    async with await bundle.connect() as client:
        pod = _Pod(client, bundle, root)
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        vcpus, first = await pod.size(bundle.id)
        assert vcpus == 2
        assert first > 1000 - 100
        assert await pod.allocate(bundle.id, 650)
        await pod.update(bundle.id, memory={"limit": 1000 * _MIB})
        assert (await pod.size(bundle.id))[1] == first + 384
        assert await pod.allocate(bundle.id, 950)
        await pod.end()
