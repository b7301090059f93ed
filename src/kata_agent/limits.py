"""The limits of a specification as files of the unified hierarchy, and what goes into them.

Values and conversions are those of runc on a host with cgroup v2; the files are those of the kernel's
admin-guide/cgroup-v2.rst. Bytes and microseconds.
"""

from __future__ import annotations

from kata_api.agent.oci_pb2 import LinuxBlockIO, LinuxCPU, LinuxMemory, LinuxRdma, LinuxResources
from ttrpc import RpcError, StatusCode


def weight(shares: int) -> int:
    """Convert cpu.shares (2 to 262144) to cpu.weight (1 to 10000), by the formula runc 1.1 uses."""
    shares = min(max(shares, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def io_weight(blkio: int) -> int:
    """Convert blkio.weight (10 to 1000) to io.weight (1 to 10000), by runc's formula."""
    return 1 + (blkio - 10) * 9999 // 990


def settings(resources: LinuxResources) -> list[tuple[str, str]]:
    """Return the files to write for ``resources``, in an order the kernel accepts.

    Raises ``RpcError`` INVALID_ARGUMENT for what has no meaning.
    """
    files = [*_memory(resources.Memory), *_cpu(resources.CPU)]
    if resources.Pids.Limit:
        files.append(("pids.max", _amount(resources.Pids.Limit)))
    files += _block_io(resources.BlockIO)
    files.extend(
        (f"hugetlb.{_plain(entry.Pagesize)}.max", str(entry.Limit))
        for entry in resources.HugepageLimits
    )
    files.extend(
        ("rdma.max", f"{device}{_rdma(limits)}")
        for device, limits in sorted(resources.Rdma.items())
    )
    for name, value in sorted(resources.Unified.items()):  # last: it has the last word
        if "." not in name or _plain(name) != name:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"unified resource {name!r} must be in the form CONTROLLER.PARAMETER",
            )
        files.append((name, value))
    return files


def _memory(memory: LinuxMemory) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    if memory.Limit:
        files.append(("memory.max", _amount(memory.Limit)))
    if memory.Swap:
        files.append(("memory.swap.max", _swap(memory.Swap, memory.Limit)))
    elif memory.Limit < 0:
        files.append(("memory.swap.max", "max"))
    if memory.Reservation:
        files.append(("memory.low", _amount(memory.Reservation)))
    return files


def _cpu(cpu: LinuxCPU) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    if cpu.Shares:
        files.append(("cpu.weight", str(weight(cpu.Shares))))
    if cpu.HasField("Idle"):  # after the weight, which an idle group does not take
        files.append(("cpu.idle", str(cpu.Idle)))
    limited = bool(cpu.Quota or cpu.Period)
    if limited and cpu.HasField("Burst"):  # a new quota must not be below the burst that there is
        files.append(("cpu.max.burst", "0"))
    if limited:
        quota = str(cpu.Quota) if cpu.Quota > 0 else "max"
        files.append(("cpu.max", f"{quota} {cpu.Period or 100000}"))
    if cpu.HasField("Burst"):
        files.append(("cpu.max.burst", str(cpu.Burst)))
    if cpu.Cpus:
        files.append(("cpuset.cpus", cpu.Cpus))
    if cpu.Mems:
        files.append(("cpuset.mems", cpu.Mems))
    return files


def _block_io(io: LinuxBlockIO) -> list[tuple[str, str]]:
    weights = [(io.Weight, ""), *((d.Weight, f"{d.Major}:{d.Minor} ") for d in io.WeightDevice)]
    for value, _ in weights:
        if value and not 10 <= value <= 1000:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT, f"blockIO weight {value} is not in 10 to 1000"
            )
    if io.LeafWeight or any(device.LeafWeight for device in io.WeightDevice):
        raise RpcError(
            StatusCode.INVALID_ARGUMENT,
            "blockIO leaf weights are of cgroup v1 and the guest has v2; leave them out",
        )
    files = [("io.bfq.weight", f"{device}{value}") for value, device in weights if value]
    throttles = (
        ("rbps", io.ThrottleReadBpsDevice),
        ("wbps", io.ThrottleWriteBpsDevice),
        ("riops", io.ThrottleReadIOPSDevice),
        ("wiops", io.ThrottleWriteIOPSDevice),
    )
    for key, devices in throttles:
        files.extend(("io.max", f"{d.Major}:{d.Minor} {key}={d.Rate}") for d in devices)
    return files


def _rdma(limits: LinuxRdma) -> str:
    text = f" hca_handle={limits.HcaHandles}" if limits.HasField("HcaHandles") else ""
    return text + (f" hca_object={limits.HcaObjects}" if limits.HasField("HcaObjects") else "")


def _plain(name: str) -> str:
    """Return ``name``, which becomes that of a file. Raises ``RpcError`` if it is a path."""
    if "/" in name:
        raise RpcError(
            StatusCode.INVALID_ARGUMENT, f"resource {name!r} must be a file name (no slashes)"
        )
    return name


def _swap(total: int, limit: int) -> str:
    """Return the limit of swap alone; the specification counts memory and swap together.

    Raises ``RpcError`` INVALID_ARGUMENT for a total without or below the limit of memory.
    """
    if total < 0:
        return "max"
    if not 0 < limit <= total:
        raise RpcError(
            StatusCode.INVALID_ARGUMENT,
            f"memory and swap together ({total} bytes) need a memory limit and must not be below "
            f"it ({limit} bytes)",
        )
    return str(total - limit)


def _amount(value: int) -> str:
    return str(value) if value > 0 else "max"
