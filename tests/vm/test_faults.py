"""What goes wrong while a sandbox starts or runs: the first error names it, and nothing is left."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

import pytest
from fastest import fastest
from lab import faulty_shim
from lab.bundle import Bundle, Configured, specification, wait_gone
from lab.paths import CHECKOUT, GUEST_KERNEL

from kata.host import proc
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from ttrpc import RpcError, StatusCode

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_ANSWER_S: Final = 5.0


async def _failed_create(bundle: Bundle, configured: Configured, root: Path) -> RpcError:
    """Create, which must fail, then end the shim as containerd does; return the error."""
    async with await bundle.connect() as client:
        with pytest.raises(RpcError) as error:
            await bundle.create(client, configured.path, root)
        left = [one for one in bundle.leftovers() if "shim" not in one and one != bundle.socket]
        assert not left
        await bundle.shut_down(client)
    return error.value


@pytest.mark.parametrize(
    ("table", "key", "value", "says"),
    [
        ("hypervisor.qemu", "kernel", "/no/kernel", "the guest kernel /no/kernel is missing"),
        ("hypervisor.qemu", "initrd", "/no/initrd", "the guest initrd /no/initrd is missing"),
        ("hypervisor.qemu", "path", "/no/qemu", "cannot start /no/qemu: No such file"),
        ("hypervisor.qemu", "virtio_fs_daemon", "/no/virtiofsd", "cannot start /no/virtiofsd"),
        ("hypervisor.qemu", "virtio_fs_daemon", "/bin/false", "virtiofsd exited with code 1"),
        ("hypervisor.qemu", "path", "/bin/false", "QEMU did not come up: it exited with code 1"),
        ("hypervisor.qemu", "machine_accelerators", "nonsense=on", "nonsense"),
        ("hypervisor.qemu", "colour", "red", "colour"),
    ],
)
async def test_what_is_missing_or_wrong_is_named(
    bundle: Bundle, configured: Configured, root: Path, table: str, key: str, value: str, says: str
) -> None:
    configured.set(table, **{key: f'"{value}"'})
    began = time.monotonic()
    error = await _failed_create(bundle, configured, root)
    assert says in error.message
    assert error.code in (StatusCode.UNKNOWN, StatusCode.INVALID_ARGUMENT)
    assert time.monotonic() - began < 30  # no deadline had to pass: that is 45 s


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("nr_inodes=1", "No space left on device: '/run/kata/"),
        ("nr_inodes=2", "No space left on device: '/run/kata/"),
        ("nr_inodes=3", "No space left on device"),
        ("ro", "Read-only file system: '/run/kata/"),
    ],
)
async def test_a_run_directory_that_takes_nothing(
    bundle: Bundle, configured: Configured, root: Path, options: str, says: str
) -> None:
    bundle.module = "lab.faulty_shim"
    bundle.environment = {
        "PYTHONPATH": f"{CHECKOUT / 'src'}:{CHECKOUT}",
        faulty_shim.RUN_ROOT_OPTIONS: options,
    }
    async with await bundle.connect() as client:
        with pytest.raises(RpcError) as error:
            await bundle.create(client, configured.path, root)
        assert says in error.value.message
        assert "; free space" in error.value.message or "has to be able" in error.value.message
        assert not os.listdir(f"/proc/{bundle.shim_pid}/root/run/kata")
        assert not [one for one in bundle.leftovers() if "shared" in one]
        await bundle.shut_down(client)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kernel_params": '"rdinit=/none init=/none"'}, ["guest console: ", "Kernel panic"]),
        ({"default_memory": "64"}, ["default_memory"]),
        ({"default_memory": "2000000000"}, ["Cannot allocate memory", "default_memory"]),
    ],
    ids=["panic", "little", "much"],
)
async def test_a_guest_that_cannot_boot(
    bundle: Bundle, configured: Configured, root: Path, values: dict[str, str], says: list[str]
) -> None:
    configured.set("hypervisor.qemu", **values)
    error = await _failed_create(bundle, configured, root)
    for words in says:
        assert words in error.message


async def test_a_truncated_image_is_found_out_before_it_boots(
    bundle: Bundle, configured: Configured, root: Path, tmp_path: Path
) -> None:
    whole = configured.asset("initrd")
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[: 1 << 20])
    shutil.copy(whole.parent / "kata-containers-image.json", tmp_path)
    configured.set("hypervisor.qemu", initrd=f'"{tmp_path / whole.name}"')
    error = await _failed_create(bundle, configured, root)
    assert f"{whole.name} has 1048576 bytes and its manifest says" in error.message
    assert "kata-ctl image build" in error.message


async def test_a_truncated_initrd_ends_with_the_guests_own_words(
    bundle: Bundle, configured: Configured, root: Path, tmp_path: Path
) -> None:
    whole = configured.asset("initrd")
    cut = tmp_path / "initrd"
    cut.write_bytes(whole.read_bytes()[: 1 << 20])
    configured.set("hypervisor.qemu", initrd=f'"{cut}"', kernel_params='"panic=-1"')
    error = await _failed_create(bundle, configured, root)
    assert "the guest ended while it started" in error.message
    assert "guest console: " in error.message
    assert "Kernel panic" in error.message


@pytest.mark.parametrize(
    ("change", "says", "code"),
    [
        ({"linux": {"namespaces": [{"type": "pid"}]}}, "host networking", StatusCode.UNIMPLEMENTED),
        (
            {"linux": {"namespaces": [{"type": "network", "path": "/run/netns/x"}]}},
            "/run/netns/x",
            StatusCode.INVALID_ARGUMENT,
        ),
        ({"process": None}, "no process or no root", StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_done_is_refused_before_a_machine_starts(
    bundle: Bundle,
    configured: Configured,
    root: Path,
    change: dict[str, object],
    says: str,
    code: StatusCode,
) -> None:
    bundle.write({k: v for k, v in (specification("/bin/sh") | change).items() if v is not None})
    error = await _failed_create(bundle, configured, root)
    assert says in error.message
    assert error.code == code


@pytest.mark.parametrize("victim", ["qemu-system", "virtiofsd"])
async def test_a_killed_helper_ends_the_container_and_leaves_nothing(
    bundle: Bundle, configured: Configured, root: Path, victim: str
) -> None:
    async def attempt() -> float:
        return await _kill_helper(bundle, configured, root, victim)

    assert await fastest(attempt, _ANSWER_S, float) < _ANSWER_S


async def _kill_helper(bundle: Bundle, configured: Configured, root: Path, victim: str) -> float:
    """Lose a sandbox through a helper of its shim; return the seconds until the client knew."""
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        waiting = asyncio.create_task(client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id)))
        await asyncio.sleep(0)
        file_server = _child(bundle.shim_pid, "virtiofsd")
        file_servers = [file_server, *proc.children(file_server)]
        os.kill(pid if victim == "qemu-system" else file_server, signal.SIGKILL)
        began = time.monotonic()
        assert (await asyncio.wait_for(waiting, 60)).exit_status == 255
        seconds = time.monotonic() - began
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=signal.SIGUSR1))
        assert error.value.code == StatusCode.NOT_FOUND
        with pytest.raises(RpcError):
            await client.call(task.v2.EXEC, pb.ExecProcessRequest(id=bundle.id, exec_id="e"))
        deleted = await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        assert deleted.exit_status == 255
        # Both of its processes, though only the first is a child of the shim.
        assert not [each for each in file_servers if _is_running(each)]
        await bundle.shut_down(client)
    return seconds


def _is_running(pid: int) -> bool:
    try:
        return proc.is_running(pid, proc.start_time(pid))
    except ProcessLookupError:
        return False


def _child(parent: int, name: str) -> int:
    """Return the child of `parent` whose program is called `name`."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if name in Path(f"/proc/{pid}/cmdline").read_bytes().decode():
            return int(pid)
    raise LookupError(f"process {parent} has no child {name}")


async def test_a_killed_shim_takes_its_machine_along(
    bundle: Bundle, configured: Configured, root: Path
) -> None:
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root)
        os.kill(bundle.shim_pid, signal.SIGKILL)
        await wait_gone(pid)
    deleted = bundle.run("-bundle", str(bundle.path), "delete")
    assert pb.DeleteResponse.FromString(deleted.stdout).pid == pid
    assert deleted.returncode == 0


async def test_a_guest_without_an_agent_meets_the_deadline(
    bundle: Bundle, configured: Configured, root: Path
) -> None:
    configured.set("agent.kata", reconnect_timeout_ms="1500")
    folder = configured.path.parent / "config.d"
    (folder / "60-boot.toml").write_text("[factory]\nenable_template = false\n")
    began = time.monotonic()
    error = await _failed_create(bundle, configured, root)
    assert "did not answer within 1.5 s (reconnect_timeout_ms" in error.message
    assert time.monotonic() - began < 20  # and not the 45 s of the default
