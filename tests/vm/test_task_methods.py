"""Every method of the task service against one sandbox: answers, status codes, events, hooks."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from lab.bundle import Bundle, Configured, specification
from lab.paths import GUEST_KERNEL

from kata_api import any as packed
from kata_api import events, task
from kata_api.containerd import cgroups_v1_pb2, cgroups_v2_pb2, events_pb2
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.events_forward_pb2 import ForwardRequest
from kata_api.containerd.runc_options_pb2 import ProcessDetails
from kata_api.containerd.task_types_pb2 import Status
from kata_api.containerd.types_pb2 import Mount
from ttrpc import Method, RpcError, StatusCode
from ttrpc.client import Client
from ttrpc.server import Server, bind

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_MIB = 1 << 20
_UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
_TRAP = "trap 'exit 3' USR1; echo up; while :; do busybox sleep 0.05; done"
# Sixteen MiB of anonymous memory, in a variable of the shell.
_ALLOCATE = "x=$(busybox dd if=/dev/zero bs=1M count=16 2>/dev/null | busybox tr '\\0' x)"


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a file tells nobody that it grows
            await asyncio.sleep(0.02)


async def _at_rest(path: Path) -> int:
    """Wait until a file has not grown for half a second; return its size."""
    size = -1
    async with asyncio.timeout(30):
        while size != path.stat().st_size:
            size = path.stat().st_size
            await asyncio.sleep(0.5)
    return size


class _Events:
    """containerd's end of the events, as far as a shim can see."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Message]] = []

    async def forward(self, request: ForwardRequest, _context: object) -> Empty:
        topic = request.envelope.topic
        kind = next(kind for kind, name in events.TOPICS.items() if name == topic)
        self.received.append((topic, packed.unpack(request.envelope.event, kind)))
        return Empty()

    def of(self, container_id: str) -> list[str]:
        """Return the topics about a container, in order, with the process that an exit is of."""
        return [
            topic.removeprefix("/tasks/")
            + (f" {event.id}" if isinstance(event, events_pb2.TaskExit) else "")
            for topic, event in self.received
            if getattr(event, "container_id", "") == container_id
        ]

    async def until(self, container_id: str, *wanted: str) -> None:
        """Wait for the topics about a container: events and answers come by different ways."""
        async with asyncio.timeout(60):
            while len(self.of(container_id)) < len(wanted):  # noqa: ASYNC110 - `forward` only adds
                await asyncio.sleep(0.01)
        assert self.of(container_id) == list(wanted)


@asynccontextmanager
async def _listening(path: Path) -> AsyncIterator[_Events]:
    received = _Events()
    server = Server(bind(events.METHODS, received))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        serving = asyncio.create_task(server.serve_unix(listener))
        try:
            yield received
        finally:
            serving.cancel()
            await server.close()


class _Pod:
    """A sandbox's containers, by calls that are as short as their checks."""

    def __init__(self, client: Client, bundle: Bundle, root: Path) -> None:
        self.client, self.bundle, self._root = client, bundle, root

    async def call(self, method: Method[Any, Any], request: Message) -> Any:
        return await self.client.call(method, request, timeout=120)

    async def refused(self, method: Method[Any, Any], request: Message) -> tuple[StatusCode, str]:
        try:
            answer = await self.call(method, request)
        except RpcError as error:
            return error.code, error.message
        pytest.fail(f"{method.name} was answered {answer}")

    async def create(self, name: str, *args: str, **changes: Any) -> str:
        """Create a container; return its id, which no other test's sandbox has."""
        container_id = f"{self.bundle.id}-{name}"
        folder = self.bundle.path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(specification(*args, **changes)))
        await self.call(
            task.v2.CREATE,
            pb.CreateTaskRequest(
                id=container_id,
                bundle=str(folder),
                rootfs=[Mount(type="bind", source=str(self._root), options=["rbind"])],
                stdout=f"file://{folder}/output",
            ),
        )
        return container_id

    async def run(self, name: str, script: str, **changes: Any) -> str:
        """Create and start a container that runs a shell script."""
        container_id = await self.create(name, "/bin/sh", "-c", script, **changes)
        await self.call(task.v2.START, pb.StartRequest(id=container_id))
        return container_id

    async def exec(self, container_id: str, exec_id: str, script: str) -> None:
        process = {"cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"]}
        spec = packed.pack_json(packed.PROCESS_URL, json.dumps(process).encode())
        output = f"file://{self.bundle.path}/{exec_id}"
        request = pb.ExecProcessRequest(
            id=container_id, exec_id=exec_id, spec=spec, stdout=output, stderr=output
        )
        await self.call(task.v2.EXEC, request)
        await self.call(task.v2.START, pb.StartRequest(id=container_id, exec_id=exec_id))

    async def wait(self, container_id: str, exec_id: str = "") -> int:
        request = pb.WaitRequest(id=container_id, exec_id=exec_id)
        status: int = (await self.call(task.v2.WAIT, request)).exit_status
        return status

    async def kill(self, container_id: str, number: int, exec_id: str = "", **fields: Any) -> None:
        request = pb.KillRequest(id=container_id, exec_id=exec_id, signal=number, **fields)
        await self.call(task.v2.KILL, request)

    async def remove(self, container_id: str) -> None:
        await self.kill(container_id, signal.SIGKILL, all=True)
        await self.wait(container_id)
        await self.call(task.v2.DELETE, pb.DeleteRequest(id=container_id))

    async def stats(self, container_id: str) -> cgroups_v1_pb2.Metrics:
        answer = await self.call(task.v2.STATS, pb.StatsRequest(id=container_id))
        kind = cgroups_v2_pb2.Metrics if _UNIFIED else cgroups_v1_pb2.Metrics
        assert answer.stats.type_url == kind.DESCRIPTOR.full_name
        if _UNIFIED:
            pytest.skip("the numbers are compared in the shape of version 1")
        return packed.unpack(answer.stats, cgroups_v1_pb2.Metrics)

    async def update(self, container_id: str, **resources: Any) -> None:
        value = json.dumps(resources).encode()
        request = pb.UpdateTaskRequest(
            id=container_id, resources=packed.pack_json(packed.LINUX_RESOURCES_URL, value)
        )
        await self.call(task.v2.UPDATE, request)

    async def refused_update(self, container_id: str, **resources: Any) -> tuple[StatusCode, str]:
        try:
            await self.update(container_id, **resources)
        except RpcError as error:
            return error.code, error.message
        pytest.fail(f"{resources} was taken")

    async def said(self, file: str, wanted: str) -> None:
        path = self.bundle.path / file
        await _until(lambda: path.exists() and wanted in path.read_text())


async def test_every_method(bundle: Bundle, configured: Configured, root: Path) -> None:
    socket_path = bundle.path / "e.sock"
    bundle.environment["TTRPC_ADDRESS"] = str(socket_path)
    async with _listening(socket_path) as received, await bundle.connect() as client:
        pod = _Pod(client, bundle, root)
        code, text = await pod.refused(task.v2.STATE, pb.StateRequest(id=bundle.id))
        assert (code, text) == (
            StatusCode.NOT_FOUND,
            "no container has been created in this shim",
        )
        await bundle.create(client, configured.path, root)
        await pod.call(task.v2.START, pb.StartRequest(id=bundle.id))
        await _answers_about_processes(pod)
        await _signals(pod, received)
        await _usage_and_limits(pod)
        await _nested_groups(pod)
        await _frozen(pod, received)
        await _out_of_memory(pod, received)
        await _hooks(pod)
        await _refusals(pod)
        await pod.remove(bundle.id)
        code, text = await pod.refused(task.v2.STATE, pb.StateRequest(id=bundle.id))
        assert (code, text) == (
            StatusCode.NOT_FOUND,
            f"sandbox {bundle.id} was deleted, and its containers with it",
        )
        await bundle.shut_down(client)
        assert received.of(bundle.id) == [
            *("create", "start", "exec-added", f"exit {bundle.id}", "delete")
        ]


async def _answers_about_processes(pod: _Pod) -> None:
    name = await pod.run("pids", "busybox sleep 500 & busybox sleep 501 & echo up; wait")
    await pod.said("pids/output", "up")
    await pod.exec(name, "other", "echo started; exec busybox sleep 502")
    await pod.said("other", "started")
    listed = (await pod.call(task.v2.PIDS, pb.PidsRequest(id=name))).processes
    ids = [each.info for each in listed if each.info.type_url]
    assert len({each.pid for each in listed}) == 4
    assert [packed.unpack(each, ProcessDetails).exec_id for each in ids] == ["other"]
    state = await pod.call(task.v2.STATE, pb.StateRequest(id=name))
    assert state.pid not in {each.pid for each in listed}  # the monitor's, a process of this host
    assert "qemu" in Path(f"/proc/{state.pid}/cmdline").read_text()
    connected = await pod.call(task.v2.CONNECT, pb.ConnectRequest(id=name))
    assert (connected.shim_pid, connected.task_pid) == (pod.bundle.shim_pid, state.pid)
    waits = [asyncio.create_task(pod.wait(name)) for _ in range(100)]
    await pod.kill(name, signal.SIGKILL)
    assert await asyncio.gather(*waits) == [137] * 100
    assert await pod.wait(name, "other") == 137
    (last,) = (await pod.call(task.v2.PIDS, pb.PidsRequest(id=name))).processes
    assert last.pid == state.pid
    assert await pod.refused(task.v2.STATS, pb.StatsRequest(id=name)) == (
        StatusCode.NOT_FOUND,
        f"container {name} has ended; it uses nothing any more",
    )
    await pod.remove(name)


async def _signals(pod: _Pod, received: _Events) -> None:
    """One process or all of them; what has ended takes the signals that would end it."""
    name = await pod.run("signals", _TRAP)
    await pod.exec(name, "first", _TRAP)
    await pod.exec(name, "second", _TRAP)
    for file in ("signals/output", "first", "second"):
        await pod.said(file, "up")
    await pod.kill(name, signal.SIGUSR1, "first")
    assert await pod.wait(name, "first") == 3
    running = pb.StateRequest(id=name, exec_id="second")
    assert (await pod.call(task.v2.STATE, running)).status == Status.RUNNING
    await pod.kill(name, signal.SIGUSR1, all=True)
    assert await pod.wait(name) == 3
    assert await pod.wait(name, "second") in (3, 137)  # the first process takes the rest along
    for number in (signal.SIGKILL, signal.SIGTERM):
        await pod.kill(name, number)
        await pod.kill(name, number, "first")
    late = pb.KillRequest(id=name, signal=signal.SIGUSR1)
    assert (await pod.refused(task.v2.KILL, late))[0] == StatusCode.NOT_FOUND
    await pod.remove(name)
    added = ("exec-added", "exec-started")
    exits = ("exit first", "exit second", f"exit {name}")
    await received.until(name, "create", "start", *added, *added, *exits, "delete")


async def _usage_and_limits(pod: _Pod) -> None:
    """Numbers grow by what a container does, and a changed limit holds at once."""
    limits = {"memory": {"limit": 64 * _MIB}, "cpu": {"quota": 90_000, "period": 100_000}}
    linux = specification()["linux"] | {"resources": limits}
    script = f"{_ALLOCATE}; busybox sleep 500 & echo up; wait"
    name = await pod.run("limits", script, linux=linux)
    await pod.said("limits/output", "up")
    first = await pod.stats(name)
    assert first.memory.usage.limit == first.memory.hierarchical_memory_limit == 64 * _MIB
    assert 16 * _MIB < first.memory.total_rss <= first.memory.usage.usage <= 64 * _MIB
    assert first.memory.usage.max >= first.memory.usage.usage
    assert first.memory.total_pg_fault > 1000
    assert (first.pids.current, first.pids.limit) == (2, 0)
    await pod.exec(name, "user", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
    assert await pod.wait(name, "user") == 0
    second = await pod.stats(name)
    await pod.exec(name, "kernel", "busybox dd if=/dev/zero of=/dev/null bs=1M count=3000")
    assert await pod.wait(name, "kernel") == 0
    third = await pod.stats(name)
    before, between, after = (each.cpu.usage for each in (first, second, third))
    assert between.user - before.user > between.kernel - before.kernel
    assert after.kernel - between.kernel > after.user - between.user
    assert abs(after.total - after.user - after.kernel) < 10_000_000
    assert third.cpu.throttling.periods > 0

    await pod.update(name, memory={"limit": 96 * _MIB}, pids={"limit": 4})
    changed = await pod.stats(name)
    assert (changed.memory.usage.limit, changed.pids.limit) == (96 * _MIB, 4)
    await pod.exec(name, "forks", "for i in 1 2 3 4 5 6; do busybox sleep 9 & done; echo no")
    assert await pod.wait(name, "forks") != 0
    await pod.update(name, memory={"limit": 512 * _MIB})
    assert (await pod.stats(name)).memory.usage.limit == 512 * _MIB
    code, text = await pod.refused_update(name, memory={"limit": 1 << 50})  # no host has that
    assert code == StatusCode.FAILED_PRECONDITION
    assert "the virtual machine cannot grow: " in text
    assert (await pod.stats(name)).memory.usage.limit == 512 * _MIB
    await pod.update(name, memory={"limit": -1}, cpu={"quota": 20_000})
    throttled = (await pod.stats(name)).cpu.throttling
    await pod.exec(name, "burn", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
    assert await pod.wait(name, "burn") == 0
    last = await pod.stats(name)
    assert last.memory.usage.limit > 1 << 62
    assert last.cpu.throttling.throttled_periods > throttled.throttled_periods
    assert last.cpu.throttling.throttled_time > throttled.throttled_time

    code, text = await pod.refused_update(name, memory={"limit": 4 * _MIB})
    assert code == StatusCode.FAILED_PRECONDITION
    assert f"limit of {4 * _MIB} bytes is below the" in text
    code, text = await pod.refused_update(name, memory={"limit": 64 * _MIB, "swap": 1})
    assert (code, "memory and swap" in text) == (StatusCode.INVALID_ARGUMENT, True)
    code, text = await pod.refused_update(name, memory={"limit": "much"})
    assert (code, "memory.limit" in text) == (StatusCode.INVALID_ARGUMENT, True)
    state = pb.StateRequest(id=name)
    assert (await pod.call(task.v2.STATE, state)).status == Status.RUNNING
    await pod.remove(name)


async def _nested_groups(pod: _Pod) -> None:
    """A group whose own groups have controllers takes no process: an exec goes to its init's."""
    plain = specification()
    group = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
    linux = {"namespaces": [*plain["linux"]["namespaces"], {"type": "cgroup"}]}
    script = (
        "cd /sys/fs/cgroup && busybox mkdir init && echo $$ > init/cgroup.procs && "
        "echo +memory > cgroup.subtree_control && echo up; busybox sleep 500; :"
    )
    name = await pod.run("nested", script, linux=linux, mounts=[*plain["mounts"], group])
    await pod.said("nested/output", "up")
    await pod.exec(name, "inside", "busybox cat /proc/self/cgroup")
    assert await pod.wait(name, "inside") == 0
    await pod.said("inside", "0::/init\n")
    await pod.remove(name)


async def _frozen(pod: _Pod, received: _Events) -> None:
    name = await pod.run("frozen", "while :; do echo x; busybox sleep 0.05; done")
    await pod.said("frozen/output", "x")
    output = pod.bundle.path / "frozen" / "output"
    assert (await pod.refused(task.v2.RESUME, pb.ResumeRequest(id=name)))[0] == (
        StatusCode.FAILED_PRECONDITION
    )
    await pod.call(task.v2.PAUSE, pb.PauseRequest(id=name))
    state = pb.StateRequest(id=name)
    assert (await pod.call(task.v2.STATE, state)).status == Status.PAUSED
    assert (await pod.refused(task.v2.PAUSE, pb.PauseRequest(id=name)))[0] == (
        StatusCode.FAILED_PRECONDITION
    )
    size = await _at_rest(output)  # once what was written has reached it
    await pod.call(task.v2.RESUME, pb.ResumeRequest(id=name))
    await _until(lambda: output.stat().st_size > size)
    await pod.call(task.v2.PAUSE, pb.PauseRequest(id=name))
    await pod.remove(name)  # a frozen one, too
    paused = ("paused", "resumed", "paused")
    await received.until(name, "create", "start", *paused, f"exit {name}", "delete")


async def _out_of_memory(pod: _Pod, received: _Events) -> None:
    linux = specification()["linux"] | {"resources": {"memory": {"limit": 32 * _MIB}}}
    # Everything in the shell, so that it is the container's own process that is killed.
    script = "x=x; while :; do x=$x$x; done"
    name = await pod.run("oom", script, linux=linux)
    assert await pod.wait(name) == 137
    await pod.call(task.v2.DELETE, pb.DeleteRequest(id=name))
    await received.until(name, "create", "start", "oom", f"exit {name}", "delete")
    assert (pod.bundle.path / "oom" / "oom").exists()


async def _hooks(pod: _Pod) -> None:
    def hook(name: str, *, fails: bool = False) -> dict[str, Any]:
        script = f'echo {name} $0 $WORD >> order; cat >> {name}; echo "not $WORD" >&2'
        if fails:
            script += "; exit 4"
        args = ["shell", "-c", script]
        return {"path": "/bin/sh", "args": args, "env": ["PATH=/bin:/usr/bin", "WORD=today"]}

    names = ("prestart", "createRuntime", "poststart", "poststop")
    wanted = {name: [hook(name, fails=name.startswith("post"))] for name in names}
    name = await pod.run("hooked", "busybox sleep 500", hooks=wanted, annotations={"a": "b"})
    await pod.remove(name)
    folder = pod.bundle.path / "hooked"
    assert (folder / "order").read_text().splitlines() == [f"{each} shell today" for each in names]
    states = [json.loads((folder / each).read_text()) for each in names]
    statuses = [each["status"] for each in states]
    assert statuses == ["creating", "creating", "running", "stopped"]
    assert states[0].items() >= {"ociVersion": "1.0.2", "id": name, "bundle": str(folder)}.items()
    assert states[0]["annotations"] == {"a": "b"}
    assert "qemu" in Path(f"/proc/{states[0]['pid']}/cmdline").read_text()
    logged = pod.bundle.log()
    for each in ("poststart", "poststop"):
        assert f"{each} hook 0, /bin/sh, exited with code 4: not today" in logged

    wanted = {"createRuntime": [hook("failing", fails=True)], "poststop": [hook("poststop")]}
    with pytest.raises(RpcError, match="createRuntime hook 0, /bin/sh, exited with code 4: not to"):
        await pod.create("unhooked", "/bin/sh", hooks=wanted)
    order = (pod.bundle.path / "unhooked" / "order").read_text()
    assert order.split()[::3] == ["failing", "poststop"]
    slow = {"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}
    with pytest.raises(RpcError, match="prestart hook 0, /bin/sleep, was killed after its timeout"):
        await pod.create("slow", "/bin/sh", hooks={"prestart": [slow]})
    with pytest.raises(RpcError, match="/no/hook, cannot be run: No such file"):
        await pod.create("missing", "/bin/sh", hooks={"prestart": [{"path": "/no/hook"}]})


async def _refusals(pod: _Pod) -> None:
    """Requests that cannot be carried out, and the status codes that containerd tells apart."""
    name = await pod.create("created", "/bin/sh", "-c", "exit 0")
    other = pod.bundle.id  # it runs
    v2 = task.v2
    announced = pb.ExecProcessRequest(id=other, exec_id="announced", spec=_PROCESS)
    await pod.call(v2.EXEC, announced)
    bundle = str(pod.bundle.path)
    for method, request, wanted in (
        *_of_nothing(other),
        *_of_processes(name, other),
        *_of_containers(name, other),
        (v2.EXEC, announced, StatusCode.ALREADY_EXISTS),
        (v2.CREATE, pb.CreateTaskRequest(id=other, bundle=bundle), StatusCode.ALREADY_EXISTS),
    ):
        found, text = await pod.refused(method, request)
        assert found == wanted, f"{method.name} {request} -> {found.name}: {text}"
        assert text
    resize = pb.ResizePtyRequest(id=other, width=80, height=25)
    await pod.call(v2.RESIZE_PTY, resize)  # of no terminal: no effect
    assert (await pod.call(v2.CONNECT, pb.ConnectRequest(id=_NOTHING))).shim_pid
    await pod.call(v2.DELETE, pb.DeleteRequest(id=name))
    found, text = await pod.refused(v2.STATE, pb.StateRequest(id=name))
    assert found == StatusCode.NOT_FOUND
    assert "was never created, or it was deleted" in text
    await pod.call(v2.SHUTDOWN, pb.ShutdownRequest(id=name))  # not while a container is left
    assert (await pod.call(v2.STATE, pb.StateRequest(id=other))).status == Status.RUNNING


_NOTHING = "nothing-here"
_PROCESS = packed.pack_json(packed.PROCESS_URL, b'{"cwd":"/","args":["/bin/sh"]}')
_OF_PROCESSES = (
    *(task.v2.STATE, task.v2.START, task.v2.DELETE, task.v2.KILL, task.v2.WAIT),
    *(task.v2.RESIZE_PTY, task.v2.CLOSE_IO),
)
_METHODS = (
    *_OF_PROCESSES,
    *(task.v2.PIDS, task.v2.PAUSE, task.v2.RESUME, task.v2.CHECKPOINT, task.v2.STATS),
)
_Refusal = tuple[Method[Any, Any], Message, StatusCode]


def _of_nothing(running: str) -> list[_Refusal]:
    rename = Method(task.v2.service, "Rename", Empty, Empty)
    resources = packed.pack_json(packed.LINUX_RESOURCES_URL, b"{}")
    return [
        *((each, each.request(id=_NOTHING), StatusCode.NOT_FOUND) for each in _METHODS),
        *(
            (each, each.request(id=running, exec_id=_NOTHING), StatusCode.NOT_FOUND)
            for each in _OF_PROCESSES
        ),
        (
            task.v2.EXEC,
            pb.ExecProcessRequest(id=_NOTHING, exec_id="x", spec=_PROCESS),
            StatusCode.NOT_FOUND,
        ),
        (
            task.v2.UPDATE,
            pb.UpdateTaskRequest(id=_NOTHING, resources=resources),
            StatusCode.NOT_FOUND,
        ),
        (rename, Empty(), StatusCode.UNIMPLEMENTED),
    ]


def _of_processes(created: str, running: str) -> list[_Refusal]:
    invalid, not_now = StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION
    unstarted = pb.KillRequest(id=running, exec_id="announced", signal=9)
    early = pb.ExecProcessRequest(id=created, exec_id="x", spec=_PROCESS)
    return [
        (task.v2.EXEC, pb.ExecProcessRequest(id=running, spec=_PROCESS), invalid),
        (task.v2.EXEC, pb.ExecProcessRequest(id=running, exec_id="x"), invalid),
        (task.v2.EXEC, early, not_now),
        (task.v2.KILL, unstarted, not_now),
        (task.v2.KILL, pb.KillRequest(id=running, signal=4000), invalid),
    ]


def _of_containers(created: str, running: str) -> list[_Refusal]:
    invalid, not_now = StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION
    unimplemented = StatusCode.UNIMPLEMENTED
    return [
        (task.v2.START, pb.StartRequest(id=running), not_now),
        (task.v2.DELETE, pb.DeleteRequest(id=running), not_now),
        (task.v2.PAUSE, pb.PauseRequest(id=created), not_now),
        (task.v2.RESUME, pb.ResumeRequest(id=running), not_now),
        (task.v2.CHECKPOINT, pb.CheckpointTaskRequest(id=running), unimplemented),
        (task.v2.UPDATE, pb.UpdateTaskRequest(id=running), invalid),
        (task.v2.CREATE, pb.CreateTaskRequest(), invalid),
        (task.v2.CREATE, pb.CreateTaskRequest(id="x", checkpoint="/x"), unimplemented),
        (task.v2.CREATE, pb.CreateTaskRequest(id="x", bundle="/no"), invalid),
    ]
