"""What a guest runs with is what the host has: KVM, vhost-vsock."""

from pathlib import Path

import pytest
from lab.bundle import Bundle, Configured
from lab.paths import GUEST_KERNEL

from kata_api import task
from kata_api.containerd import task_pb2 as pb

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]


async def test_a_guest_has_the_hosts_kvm_and_vsock(
    bundle: Bundle, configured: Configured, root: Path
) -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    kvm = Path("/dev/kvm").exists() and not flags.isdisjoint({"svm", "vmx"})
    vsock = Path("/dev/vhost-vsock").exists()
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        state = await client.call(task.v2.STATE, pb.StateRequest(id=bundle.id))
        line = Path(f"/proc/{state.pid}/cmdline").read_text()
        assert ("accel=kvm" in line, "vhost-vsock-pci" in line) == (kvm, vsock)
        assert ("accel=tcg" in line) is not kvm
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
