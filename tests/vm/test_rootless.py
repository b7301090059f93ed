"""QEMU as a user of the sandbox's own."""

from pathlib import Path

import pytest
from lab.bundle import Bundle, Configured, specification, wait_gone
from lab.paths import GUEST_KERNEL

from kata_api import task
from kata_api.containerd import task_pb2 as pb

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]


@pytest.mark.parametrize("restored", [True, False], ids=["restored", "booted"])
async def test_qemu_is_nobody(
    bundle: Bundle, configured: Configured, root: Path, restored: bool
) -> None:
    if closed := [str(each) for each in GUEST_KERNEL.parents if not each.stat().st_mode & 1]:
        pytest.skip(f"the checkout lies in {closed[-1]}, which users other than root cannot enter")
    drop_in = configured.path.parent / "config.d" / "60-rootless.toml"
    drop_in.write_text(
        f"[hypervisor.qemu]\nrootless = true\n[factory]\nenable_template = {str(restored).lower()}\n"
    )
    output = bundle.path / "output"
    bundle.write(specification("/bin/sh", "-c", "echo written > /file; cat /file"))
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root, stdout=f"file://{output}")
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        users = set(status["Uid"].split() + status["Gid"].split())
        assert len(users) == 1
        assert int(users.pop()) >= 0x60000000
        assert {status[f"Cap{which}"] for which in ("Eff", "Prm", "Amb", "Inh")} <= {
            "0000000000000000"
        }
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        assert "boots, for" not in bundle.log()
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    await wait_gone(pid)
    assert output.read_text() == "written\n"
