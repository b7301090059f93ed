"""What runc 1.1 does not know: scheduling, personality, clocks; and hooks of the guest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from containers import Guest, make_process, make_spec

from kata_agent import sandbox, scheduling
from kata_api.agent import agent_pb2
from kata_api.agent import oci_pb2 as oci
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.linux

# policy and priority are fields 41 and 40 of proc_pid_stat(5), nice is 19
SCHEDULE = "cut -d' ' -f19,40,41 /proc/self/stat; true"  # in a child of the shell


async def run(guest: Guest, command: str, **fields: Any) -> str:
    spec = make_spec(guest.new_rootfs(), make_process("sh", "-c", f"PATH=/bin; {command}"))
    Path(spec.Root.Path, "bin/cut").symlink_to("busybox")
    for name, value in fields.items():
        owner = spec.Process if name in spec.Process.DESCRIPTOR.fields_by_name else spec.Linux
        getattr(owner, name).CopyFrom(value)
    code, out, err = await guest.run_spec(spec)
    assert (code, err) == (0, "")
    return out


def may_be_real_time() -> bool:
    """Tell whether this host lets a process of ours have a real-time policy."""
    command = ["chrt", "--fifo", "1", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("scheduler", "stat"),
    [
        (oci.LinuxScheduler(Policy="SCHED_OTHER", Nice=7), "7 0 0"),
        (oci.LinuxScheduler(Policy="SCHED_BATCH", Nice=-3), "-3 0 3"),
        (oci.LinuxScheduler(Policy="SCHED_FIFO", Priority=9), "0 9 1"),
        (oci.LinuxScheduler(Policy="SCHED_RR", Priority=99), "0 99 2"),
        (oci.LinuxScheduler(Policy="SCHED_IDLE"), "0 0 5"),
        # A child of it is an ordinary process.
        (
            oci.LinuxScheduler(Policy="SCHED_FIFO", Priority=9, Flags=["SCHED_FLAG_RESET_ON_FORK"]),
            "0 0 0",
        ),
        (
            oci.LinuxScheduler(
                Policy="SCHED_DEADLINE",
                Flags=["SCHED_FLAG_RESET_ON_FORK"],
                Runtime=10**6,
                Deadline=10**7,
                Period=10**7,
            ),
            "0 0 0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.Policy,
)
async def test_schedulers(guest: Guest, scheduler: oci.LinuxScheduler, stat: str) -> None:
    if scheduler.Policy in ("SCHED_FIFO", "SCHED_RR") and not may_be_real_time():
        pytest.skip(
            "missing: real-time scheduling, which a cgroup v1 of the host may have no part of"
        )
    assert await run(guest, SCHEDULE, Scheduler=scheduler) == f"{stat}\n"


async def test_io_priority(guest: Guest) -> None:
    wanted = oci.LinuxIOPriority(Class="IOPRIO_CLASS_BE", Priority=6)
    assert await run(guest, "/bin/busybox ionice -p $$", IOPriority=wanted) == (
        "best-effort: prio 6\n"
    )


async def test_personality_is_that_of_every_process(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("sleep", "100"))
    spec.Linux.Personality.Domain = "LINUX32"
    spec.Linux.MemoryPolicy.Mode = "MPOL_BIND"
    spec.Linux.MemoryPolicy.Nodes = "0"
    name = await guest.create(spec)
    await guest.start(name)
    script = "cat /proc/self/personality; /bin/busybox grep -c bind:0 /proc/self/numa_maps"
    await guest.execute(name, "e", make_process("sh", "-c", script))
    _, out, err = await guest.collect(name, "e")
    assert out.splitlines()[0] == "00000008"
    if os.path.exists("/proc/self/numa_maps"):
        assert int(out.splitlines()[1]) > 0, err


async def test_clocks_of_a_time_namespace(guest: Guest) -> None:
    if not os.path.exists("/proc/self/ns/time"):
        pytest.skip("missing: time namespaces in this kernel")
    spec = make_spec(guest.new_rootfs(), make_process("sh", "-c", "cat /proc/uptime; sleep 100"))
    spec.Linux.Namespaces.add(Type="time")
    spec.Linux.TimeOffsets["boottime"].Secs = 10_000_000
    spec.Linux.TimeOffsets["monotonic"].Nanosecs = 5
    name = await guest.create(spec)
    await guest.start(name)
    await guest.execute(name, "e", make_process("cat", "/proc/uptime"))
    _, out, _ = await guest.collect(name, "e")
    for text in (out, (await guest.read_some(name)).decode()):
        assert 10_000_000 <= float(text.split()[0]) < 20_000_000


async def test_an_exec_is_bound_to_its_final_processors(guest: Guest) -> None:
    name = await guest.sleeper()
    last = max(os.sched_getaffinity(0))
    process = make_process("/bin/busybox", "grep", "Cpus_allowed_list", "/proc/self/status")
    process.ExecCPUAffinity.Initial = "0"
    process.ExecCPUAffinity.Final = str(last)
    await guest.execute(name, "e", process)
    _, out, _ = await guest.collect(name, "e")
    assert out.split() == ["Cpus_allowed_list:", str(last)]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("Scheduler", oci.LinuxScheduler(), "scheduler.policy '' is none of SCHED_OTHER"),
        ("Scheduler", oci.LinuxScheduler(Policy="SCHED_OTHER", Nice=20), "scheduler.nice 20"),
        ("Scheduler", oci.LinuxScheduler(Policy="SCHED_OTHER", Priority=1), "scheduler.priority"),
        ("Scheduler", oci.LinuxScheduler(Policy="SCHED_RR", Runtime=1), "for SCHED_DEADLINE"),
        ("Scheduler", oci.LinuxScheduler(Policy="SCHED_RR", Flags=["X"]), "scheduler.flags 'X'"),
        ("IOPriority", oci.LinuxIOPriority(Class="BE"), "ioPriority.class 'BE'"),
        (
            "IOPriority",
            oci.LinuxIOPriority(Class="IOPRIO_CLASS_RT", Priority=8),
            "ioPriority.priority 8",
        ),
        ("ExecCPUAffinity", oci.LinuxCPUAffinity(Initial="x"), "execCPUAffinity.initial: 'x'"),
        ("ExecCPUAffinity", oci.LinuxCPUAffinity(Final="3-1"), "execCPUAffinity.final: '3-1'"),
        ("Personality", oci.LinuxPersonality(Domain="BSD"), "personality.domain 'BSD'"),
        ("MemoryPolicy", oci.LinuxMemoryPolicy(Mode="X"), "memoryPolicy.mode 'X'"),
        (
            "MemoryPolicy",
            oci.LinuxMemoryPolicy(Mode="MPOL_BIND", Nodes="64"),
            "memoryPolicy.nodes 64: 64 nodes at most",
        ),
    ],
)
async def test_what_does_not_exist_is_refused(
    guest: Guest, field: str, value: Any, says: str
) -> None:
    with pytest.raises(RpcError, match=says) as caught:
        await run(guest, "true", **{field: value})
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


def test_lists_of_numbers() -> None:
    assert scheduling.members("x", "0-2,7,9-9") == {0, 1, 2, 7, 9}
    assert scheduling.members("x", "") == set()


async def test_hooks_run_where_they_belong(guest: Guest, tmp_path: Path) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("cat", "/tmp/trace"))
    spec.Annotations["key"] = "value"
    spec.Process.User.UID = 1000
    host = tmp_path / "host"  # seen by the first hook only: it runs before the pivot
    script = f"pwd > {host}; cat >> {host}; echo $A >> {host}; mkdir -m 777 tmp/made"
    spec.Hooks.CreateContainer.add(Path="/bin/sh", Args=["sh", "-c", script], Env=["A=1"])
    script = "pwd > /tmp/made/it; cat >> /tmp/made/it; /bin/busybox id -u >> /tmp/made/it"
    spec.Hooks.StartContainer.add(Path="/bin/busybox", Args=["sh", "-c", script], Timeout=20)
    spec.Process.Args[:] = ["cat", "/tmp/made/it"]
    name = await guest.create(spec)
    created = Path(host).read_text().splitlines()
    assert created[0] == spec.Root.Path
    assert json.loads(created[1].removesuffix("1")) == {
        "ociVersion": "1.0.2",
        "id": name,
        "status": "creating",
        "bundle": os.path.dirname(spec.Root.Path),
        "annotations": {"key": "value"},
        "pid": 1,
    }
    await guest.start(name)
    code, out, err = await guest.collect(name)
    assert (code, err) == (0, "")
    assert out.startswith("/\n")
    assert '"status": "created"' in out
    assert out.rstrip().endswith("1000")


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        (
            oci.Hook(Path="/bin/sh", Args=["sh", "-c", "echo out; echo err >&2; exit 3"]),
            "#1: /bin/sh: exit status 3, stdout: out, stderr: err$",
        ),
        (
            oci.Hook(Path="/bin/sh", Args=["sh", "-c", "kill -9 $$"]),
            "#1: /bin/sh: signal SIGKILL",
        ),
        (oci.Hook(Path="/bin/sh", Args=["sh", "-c", "kill -40 $$"]), "#1: /bin/sh: signal 40,"),
        (
            oci.Hook(Path="/bin/sleep", Args=["sleep", "100"], Timeout=1),
            "#1: /bin/sleep: hook ran past specified timeout of 1 s",
        ),
        (oci.Hook(Path="/no/hook"), "#1 /no/hook: no such file or directory"),
    ],
    ids=["status", "signal", "real-time-signal", "timeout", "missing"],
)
@pytest.mark.parametrize("moment", ["CreateContainer", "StartContainer"])
async def test_a_hook_that_fails_aborts(
    guest: Guest, hook: oci.Hook, says: str, moment: str
) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("true"))
    getattr(spec.Hooks, moment).extend([oci.Hook(Path="/bin/true"), hook])
    words = f"^error running {moment[0].lower()}{moment[1:]} hook {says}"
    if moment == "CreateContainer":
        with pytest.raises(RpcError) as caught:
            await guest.create(spec)
    else:
        name = await guest.create(spec)
        with pytest.raises(RpcError) as caught:
            await guest.start(name)
        assert await guest.wait(name) == 1
    assert re.search(words, caught.value.message), caught.value.message


_SHOW_NICE = """
import os, sys
from kata_agent.scheduling import take_turns
for first in (True, False):
    take_turns(first=first)
    print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)
    child = os.fork()
    if not child:
        print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_what_the_first_in_turn_makes_takes_turns() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", _SHOW_NICE],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["-20", "0", "0", "0"]


async def test_the_agent_is_first_while_there_is_no_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(sandbox, "take_turns", lambda *, first: told.append(first))
    agent = sandbox.Sandbox(adopt_orphans=True)
    try:
        assert told == [True]
        with pytest.raises(RpcError):  # it has no process
            await agent.create(agent_pb2.CreateContainerRequest(container_id="c"))
        assert told == [True, False, True]
    finally:
        agent.close()
