"""Streams of many processes in one virtual machine."""

import asyncio
import os
from pathlib import Path

import pytest
from lab.bundle import Bundle, Configured
from lab.paths import GUEST_KERNEL

from kata_api import any as packed
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_EXECS = int(os.environ.get("KATA_TEST_EXECS", "150"))
_SIGKILL = 9


class _Executor:
    """Adds processes with three named pipes to a running container, one after the other."""

    def __init__(self, client: Client, container_id: str, folder: Path) -> None:
        self._client = client
        self._id = container_id
        self._pipes = {name: folder / name for name in ("stdin", "stdout", "stderr")}
        for path in self._pipes.values():
            os.mkfifo(path)
        self._count = 0

    async def run(self, script: str, stdin: bytes = b"") -> str:
        """Run a script to its end; return what it said on both outputs."""
        self._count += 1
        ids = {"id": self._id, "exec_id": f"e{self._count}"}
        process = b'{"cwd":"/","args":["/bin/sh","-c","%s"],"user":{"uid":0,"gid":0}}'
        paths = {name: str(path) for name, path in self._pipes.items()}
        spec = packed.pack_json(packed.PROCESS_URL, process % script.encode())
        readers = [
            os.open(self._pipes[name], os.O_RDONLY | os.O_NONBLOCK) for name in ("stdout", "stderr")
        ]
        # As clients have it: the end is there before the process is.
        holder = os.open(self._pipes["stdin"], os.O_RDWR | os.O_NONBLOCK)
        os.write(holder, stdin)
        await self._client.call(task.v2.EXEC, pb.ExecProcessRequest(**ids, **paths, spec=spec))
        await self._client.call(task.v2.START, pb.StartRequest(**ids))
        os.close(holder)
        await self._client.call(task.v2.CLOSE_IO, pb.CloseIORequest(**ids, stdin=True))
        exit_ = await self._client.call(task.v2.WAIT, pb.WaitRequest(**ids), timeout=60)
        assert exit_.exit_status == 0
        said = b"".join([await asyncio.to_thread(_read, reader) for reader in readers])
        await self._client.call(task.v2.DELETE, pb.DeleteRequest(**ids))
        return said.decode()


def _read(reader: int) -> bytes:
    """Read to the end, which comes about when the exit is told, and close."""
    os.set_blocking(reader, True)
    with open(reader, "rb") as file:
        return file.read()


async def test_many_execs_leave_no_descriptor_in_shim_or_guest(
    bundle: Bundle, configured: Configured, root: Path, tmp_path: Path
) -> None:
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        executor = _Executor(client, bundle.id, tmp_path)

        async def open_files() -> tuple[list[str], int]:
            said = await executor.run("read all < /proc/sys/fs/file-nr; echo $all")
            return sorted(os.listdir(f"/proc/{bundle.shim_pid}/fd")), int(said.split()[0])

        shim, guest = await open_files()
        for number in range(_EXECS):
            said = await executor.run("read line; echo got $line >&2", b"%d\n" % number)
            assert said == f"got {number}\n"
        shim_after, guest_after = await open_files()
        assert shim_after == shim
        # The kernel's number is exact to 32 for each processor; every exec has at least 5 files.
        assert abs(guest_after - guest) < min(100, _EXECS)
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=_SIGKILL, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
