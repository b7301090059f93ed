"""The life of a container, in the orders that containerd and its users come up with."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import GUEST_KERNEL

from kata_api import any as packed
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.task_types_pb2 import Status
from ttrpc import RpcError, StatusCode
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_SIGKILL = 9


async def _status(client: Client, bundle: Bundle, exec_id: str = "") -> "Status.ValueType":
    request = pb.StateRequest(id=bundle.id, exec_id=exec_id)
    return (await client.call(task.v2.STATE, request)).status


async def _wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a file tells nobody that it grows
            await asyncio.sleep(0.01)


async def test_killed_before_it_was_started(
    bundle: Bundle, configured: Configured, root: Path
) -> None:
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        assert await _status(client, bundle) == Status.CREATED
        waiting = asyncio.create_task(client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id)))
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=_SIGKILL, all=True))
        assert (await asyncio.wait_for(waiting, 10)).exit_status == 137
        assert await _status(client, bundle) == Status.STOPPED
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        assert error.value.code == StatusCode.FAILED_PRECONDITION
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)


async def test_deleted_while_running_and_twice_at_once(
    bundle: Bundle, configured: Configured, root: Path
) -> None:
    delete = pb.DeleteRequest(id=bundle.id)
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.DELETE, delete)
        assert error.value.code == StatusCode.FAILED_PRECONDITION
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        assert error.value.code == StatusCode.FAILED_PRECONDITION
        await client.call(task.v2.SHUTDOWN, pb.ShutdownRequest(id=bundle.id))
        assert await _status(client, bundle) == Status.RUNNING
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=_SIGKILL, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        answers = await asyncio.gather(
            client.call(task.v2.DELETE, delete),
            client.call(task.v2.DELETE, delete),
            return_exceptions=True,
        )
        deleted = [each for each in answers if isinstance(each, pb.DeleteResponse)]
        refused = [each for each in answers if isinstance(each, RpcError)]
        assert [each.exit_status for each in deleted] == [137]
        assert [each.code for each in refused] == [StatusCode.NOT_FOUND]
        await bundle.shut_down(client)


async def test_an_execs_children_do_not_keep_its_exit(
    bundle: Bundle, configured: Configured, root: Path
) -> None:
    script = "(while :; do echo more; done) & echo mine; exit 7"
    process = b'{"cwd":"/","args":["/bin/sh","-c","%s"],"user":{"uid":0,"gid":0}}' % script.encode()
    output = bundle.path / "exec"
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        added = pb.ExecProcessRequest(
            id=bundle.id,
            exec_id="e1",
            stdout=f"file://{output}",
            spec=packed.pack_json(packed.PROCESS_URL, process),
        )
        await client.call(task.v2.EXEC, added)
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.EXEC, added)
        assert error.value.code == StatusCode.ALREADY_EXISTS
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, exec_id="e1", signal=9))
        assert error.value.code == StatusCode.FAILED_PRECONDITION
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id, exec_id="e1"))
        wait = client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id, exec_id="e1"))
        assert (await asyncio.wait_for(wait, 120)).exit_status == 7
        at_exit = output.read_bytes()
        assert b"mine\n" in at_exit
        await _wait_until(lambda: output.stat().st_size > len(at_exit))  # its child writes on
        deleted = await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id, exec_id="e1"))
        assert deleted.exit_status == 7
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=_SIGKILL, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)


async def test_a_name_of_another_namespace_is_another_sandbox(
    bundle: Bundle, configured: Configured, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "twin"
    folder.mkdir()
    twin = Bundle(folder, namespace="other", container_id=bundle.id)
    twin.write(specification("/bin/sh"))
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root)
        async with await twin.connect() as other:
            configured.set("hypervisor.qemu", kernel='"/no/kernel"')
            with pytest.raises(RpcError, match="/no/kernel"):
                await twin.create(other, configured.path, root)
            await twin.shut_down(other)
        assert twin.run("-bundle", str(twin.path), "delete").returncode == 0
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        state = await client.call(task.v2.STATE, pb.StateRequest(id=bundle.id))
        assert (state.pid, state.status) == (pid, Status.RUNNING)
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=_SIGKILL, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    twin.close()
