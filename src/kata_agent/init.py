"""What new processes of a container do between their birth and their program.

The functions here run in the new process, after `launcher.spawn`; each ends in ``execve``.
"""

from __future__ import annotations

import os
from typing import NamedTuple, NoReturn

from kata_agent import syscalls as sc
from kata_agent import terminal
from kata_agent.launcher import Gate
from kata_agent.program import Program
from kata_agent.progress import Progress
from kata_agent.rootfs import RootFilesystem
from kata_agent.seccomp import Filter
from kata_api.agent.oci_pb2 import Linux, Process, Spec

Streams = tuple[int, int, int]


class Join(NamedTuple):
    """A namespace to enter: a descriptor of it or of a process, and CLONE_NEW* bits."""

    fd: int
    flags: int


def run_init(
    container_id: str,
    spec: Spec,
    joins: list[Join],
    confinement: Filter | None,
    streams: Streams | None,
    gate: Gate,
    progress: Progress,
) -> NoReturn:
    """Become the first process of a container, by way of the gate that StartContainer opens.

    Runs in new mount and pid namespaces. ``streams`` is None for a terminal.
    """
    process = spec.Process
    _set_oom_score(process, progress)
    progress.at("join session keyring")
    sc.join_session_keyring(_keyring(container_id), lasting=True)
    progress.at("join namespaces")
    for join in joins:
        sc.setns(join.fd, join.flags)
    if any(namespace.Type == "time" for namespace in spec.Linux.Namespaces):
        _shift_clocks(spec.Linux, progress)
    progress.at("isolate cgroup view")
    sc.unshare(sc.CLONE_NEWCGROUP)
    if spec.Domainname:
        progress.at("set domain name", spec.Domainname)
        with open("/proc/sys/kernel/domainname", "w", encoding="utf-8") as file:
            file.write(spec.Domainname)
    root = RootFilesystem(spec, progress)
    root.build()
    if spec.Hooks.CreateContainer:
        from kata_agent import hooks

        state = hooks.state(spec, container_id, "creating")
        hooks.run("createContainer", spec.Hooks.CreateContainer, state, progress, root.descriptor)
    master: int | None = None
    if streams is None:
        master, slave = root.open_terminal()
        streams = _streams_of(process, master, slave)
    root.restrict()
    root.pivot()
    program = Program(process, spec.Linux, progress, confinement)
    program.prepare(streams, controlling=master is not None)
    gate.ready(master)
    if master is not None:
        os.close(master)
    gate.wait_start()
    if spec.Hooks.StartContainer:
        from kata_agent import hooks

        program.confine()  # a hook of the image may do no more than its program
        state = hooks.state(spec, container_id, "created")
        hooks.run("startContainer", spec.Hooks.StartContainer, state, progress)
    program.run()


def run_exec(
    container_id: str,
    process: Process,
    linux: Linux,
    target: Join | None,
    confinement: Filter | None,
    streams: Streams | None,
    gate: Gate,
    progress: Progress,
) -> NoReturn:
    """Become a further process of a running container, at once.

    Runs in the container's pid and mount namespaces already, and with its OOM score. Without a
    ``target`` it stays in the guest's own namespaces.
    """
    if target is not None:
        progress.at("join session keyring")
        sc.join_session_keyring(_keyring(container_id))
        progress.at("join the container's namespaces")
        sc.setns(target.fd, target.flags)
    os.chdir("/")
    master: int | None = None
    if streams is None:
        progress.at("open terminal", "/dev/ptmx")
        master, slave, _ = terminal.open_pair(os.open)
        streams = _streams_of(process, master, slave)
    if process.ExecCPUAffinity.Final:
        from kata_agent import scheduling

        scheduling.bind(process, progress)
    program = Program(process, linux, progress, confinement)
    program.prepare(streams, controlling=master is not None)
    gate.ready(master)
    program.run()


def _keyring(container_id: str) -> str:
    """Return the name of a container's keyring, which is runc's: its keys are no other's."""
    return f"_ses.{container_id}"


def _streams_of(process: Process, master: int, slave: int) -> Streams:
    size = process.ConsoleSize
    if size.Height or size.Width:
        terminal.resize(master, size.Height, size.Width)
    return slave, slave, slave


def _shift_clocks(linux: Linux, progress: Progress) -> None:
    """Enter a new time namespace, whose offsets can be set while nobody is in it."""
    progress.at("set offsets of clocks")
    sc.unshare(sc.CLONE_NEWTIME)
    with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
        file.writelines(
            f"{clock} {offset.Secs} {offset.Nanosecs}\n"
            for clock, offset in linux.TimeOffsets.items()
        )
    namespace = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    sc.setns(namespace, sc.CLONE_NEWTIME)
    os.close(namespace)


def _set_oom_score(process: Process, progress: Progress) -> None:
    if process.OOMScoreAdj:
        progress.at("set oom_score_adj", str(process.OOMScoreAdj))
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(process.OOMScoreAdj))
