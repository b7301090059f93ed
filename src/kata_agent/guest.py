"""Settings and facts of the guest machine: clock, entropy, hotplugged processors and memory."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from kata_agent import VERSION
from kata_agent.storage import DRIVERS
from kata_agent.uevents import Uevents
from kata_api.agent import agent_pb2 as pb
from ttrpc import RpcError, StatusCode

_RNDADDENTROPY = 0x40085203  # linux/random.h
_RNDRESEEDCRNG = 0x5207
_CPUS = "/sys/devices/system/cpu"
_MEMORY = "/sys/devices/system/memory"
_WAIT_SECONDS = 5.0


def details(*, memory_block_size: bool, memory_probe: bool) -> pb.GuestDetailsResponse:
    """Describe the agent, and the memory hotplug of the guest where asked."""
    response = pb.GuestDetailsResponse()
    agent = response.agent_details
    agent.version = VERSION
    agent.init_daemon = os.getpid() == 1
    agent.storage_handlers.extend(DRIVERS)
    agent.supports_seccomp = True  # the image carries libseccomp
    if memory_block_size:
        try:
            with open(f"{_MEMORY}/block_size_bytes", encoding="ascii") as file:
                response.mem_block_size_bytes = int(file.read(), 16)
        except FileNotFoundError:  # a kernel without memory hotplug; 0 says so
            pass
    if memory_probe:
        response.support_mem_hotplug_probe = os.path.exists(f"{_MEMORY}/probe")
    return response


def set_time(seconds: int, microseconds: int) -> None:
    """Set the clock of the guest. Raises ``OSError``."""
    time.clock_settime_ns(time.CLOCK_REALTIME, seconds * 10**9 + microseconds * 1000)


def reseed(data: bytes) -> None:
    """Credit ``data`` to the entropy pool and make the kernel use it at once.

    Clones of one template share the state of the generator until this is done. Raises ``OSError``.
    """
    with open("/dev/urandom", "wb", buffering=0) as device:
        request = struct.pack("ii", len(data) * 8, len(data)) + data
        fcntl.ioctl(device, _RNDADDENTROPY, request)
        fcntl.ioctl(device, _RNDRESEEDCRNG)


async def online(*, cpus: int, cpu_only: bool) -> None:
    """Bring hotplugged processors, and memory blocks unless ``cpu_only``, into use.

    Waits up to 5 s for ``cpus`` processors to appear. Raises ``RpcError`` DEADLINE_EXCEEDED when
    fewer could be brought into use; those that could stay.
    """
    brought = 0
    in_time = True
    with Uevents(_WAIT_SECONDS) as announced:
        while True:
            brought += _online_all(_CPUS, "cpu", most=cpus - brought)
            if brought >= cpus or not in_time:
                break
            in_time = await announced.wait("add")
    if not cpu_only:
        _online_all(_MEMORY, "memory", most=None)
    if brought < cpus:
        raise RpcError(
            StatusCode.DEADLINE_EXCEEDED,
            f"{brought} of {cpus} new processors appeared within {_WAIT_SECONDS:g} s; "
            "check that the hypervisor has added them",
        )


def _online_all(directory: str, prefix: str, most: int | None) -> int:
    """Write 1 to every ``online`` file that reads 0; return how many took it."""
    brought = 0
    try:
        names = sorted(os.listdir(directory), key=lambda name: (len(name), name))  # 2 before 10
    except FileNotFoundError:
        return 0
    for name in names:
        if most is not None and brought >= most:
            break
        if not (name.startswith(prefix) and name[len(prefix) :].isdecimal()):
            continue
        try:
            with open(f"{directory}/{name}/online", "r+", encoding="ascii") as file:
                if file.read().strip() == "0":
                    file.seek(0)
                    file.write("1")
                    file.flush()
                    brought += 1
        except FileNotFoundError:  # the boot processor cannot be switched
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EINVAL):
                raise
    return brought
