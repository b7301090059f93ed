"""How a process is scheduled: its CPU policy, I/O priority, processors, and the memory it is given.

Names are those of the OCI runtime specification, numbers those of the kernel's UAPI headers.
"""

from __future__ import annotations

import contextlib
import os
import struct

from kata_agent import syscalls as sc
from kata_agent.progress import Progress
from kata_api.agent.oci_pb2 import Linux, LinuxMemoryPolicy, LinuxScheduler, Process

# linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_DOMAINS = {"LINUX": 0, "LINUX32": 8}  # linux/personality.h
# linux/mempolicy.h
_MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
_MEMORY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_MOST_NODES = 64
_MOST_PROCESSORS = 8192  # what CONFIG_NR_CPUS may be
_FOREMOST = -20  # the lowest nice value there is (sched(7))


def take_turns(*, first: bool) -> None:
    """Have this process take turns with all others, or be scheduled before them when it is ``first``.

    Whatever is forked starts with the usual priority.  Where the kernel refuses, nothing changes.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, _FOREMOST if first else 0)


def check_process(process: Process) -> None:
    """Raise ``ValueError`` if ``process`` asks for a scheduling that does not exist."""
    if process.HasField("Scheduler"):
        _check_scheduler(process.Scheduler)
    if process.HasField("IOPriority"):
        wanted = process.IOPriority
        _known("ioPriority.class", wanted.Class, _IO_CLASSES)
        if not 0 <= wanted.Priority <= 7:
            raise ValueError(f"ioPriority.priority {wanted.Priority} is not in 0 to 7")
    for name in ("Initial", "Final"):
        members(f"execCPUAffinity.{name.lower()}", getattr(process.ExecCPUAffinity, name))


def check_container(linux: Linux) -> None:
    """Raise ``ValueError`` for a personality or a memory policy that does not exist."""
    if linux.HasField("Personality"):
        _known("linux.personality.domain", linux.Personality.Domain, _DOMAINS)
        if linux.Personality.Flags:
            raise ValueError("linux.personality.flags: the specification names none; leave it out")
    if linux.HasField("MemoryPolicy"):
        _memory_policy(linux.MemoryPolicy)


def apply(process: Process, linux: Linux, progress: Progress) -> None:
    """Schedule this process as ``process`` and its container ask, while it may. Raises ``OSError``."""
    if process.HasField("Scheduler"):
        progress.at("error setting scheduler", process.Scheduler.Policy)
        sc.sched_setattr(_attributes(process.Scheduler))
    if process.HasField("IOPriority"):
        wanted = process.IOPriority
        progress.at("failed to set io priority", wanted.Class)
        sc.ioprio_set(_IO_CLASSES[wanted.Class] << 13 | wanted.Priority)
    if linux.HasField("MemoryPolicy"):
        progress.at("set memory policy", linux.MemoryPolicy.Mode)
        sc.set_mempolicy(*_memory_policy(linux.MemoryPolicy))
    if linux.HasField("Personality"):
        progress.at("set personality", linux.Personality.Domain)
        sc.personality(_DOMAINS[linux.Personality.Domain])


def bind(process: Process, progress: Progress) -> None:
    """Bind a further process to its final processors.

    The initial ones are for the time before it enters the cgroup, in which it was born.
    """
    if processors := process.ExecCPUAffinity.Final:
        progress.at("set CPU affinity", processors)
        os.sched_setaffinity(0, members("execCPUAffinity.final", processors))


def members(name: str, text: str) -> set[int]:
    """Return the numbers in a list such as 0-3,7. Raises ``ValueError``, which calls it ``name``."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high < _MOST_PROCESSORS:
            raise ValueError(f"{name}: {text!r} is no list of numbers such as 0-3,7")
        found.update(range(low, high + 1))
    return found


def _check_scheduler(wanted: LinuxScheduler) -> None:
    policy = wanted.Policy
    _known("scheduler.policy", policy, _POLICIES)
    for flag in wanted.Flags:
        _known("scheduler.flags", flag, _FLAGS)
    if policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= wanted.Nice <= 19:
        raise ValueError(f"scheduler.nice {wanted.Nice} is not in -20 to 19")
    if wanted.Priority and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise ValueError(f"scheduler.priority is for SCHED_FIFO and SCHED_RR, not for {policy}")
    if (wanted.Runtime or wanted.Deadline or wanted.Period) and policy != "SCHED_DEADLINE":
        raise ValueError(
            f"scheduler.runtime, deadline and period are for SCHED_DEADLINE, not for {policy}"
        )


def _attributes(wanted: LinuxScheduler) -> bytes:
    """Return ``struct sched_attr``, SCHED_ATTR_SIZE_VER0."""
    flags = sum(_FLAGS[name] for name in set(wanted.Flags))
    times = (wanted.Runtime, wanted.Deadline, wanted.Period)
    policy = _POLICIES[wanted.Policy]
    return struct.pack("=IIQiIQQQ", 48, policy, flags, wanted.Nice, wanted.Priority, *times)


def _memory_policy(wanted: LinuxMemoryPolicy) -> tuple[int, int]:
    _known("linux.memoryPolicy.mode", wanted.Mode, _MEMORY_MODES)
    mode = _MEMORY_MODES[wanted.Mode]
    for flag in wanted.Flags:
        _known("linux.memoryPolicy.flags", flag, _MEMORY_FLAGS)
        mode |= _MEMORY_FLAGS[flag]
    nodes = members("linux.memoryPolicy.nodes", wanted.Nodes)
    if nodes and max(nodes) >= _MOST_NODES:
        raise ValueError(f"linux.memoryPolicy.nodes {wanted.Nodes}: {_MOST_NODES} nodes at most")
    return mode, sum(1 << node for node in nodes)


def _known(name: str, value: str, table: dict[str, int]) -> None:
    if value not in table:
        raise ValueError(f"{name} {value!r} is none of {', '.join(table)}")
