"""QEMU's migration, between a machine and a file: the state of its devices, never its memory.

The capability `x-ignore-shared` leaves out memory that is mapped from a shared file.  Whoever
restores finds it where it maps that file itself.
"""

import asyncio

from qemu.qmp import QMPClient

from kata.hypervisor.port import HypervisorError

_CAPABILITY: dict[str, object] = {
    "capabilities": [{"capability": "x-ignore-shared", "state": True}]
}

_POLL = 0.002
"""Seconds between two looks at a migration; the whole takes some ten milliseconds."""

_DESCRIPTOR = "state"


async def save(qmp: QMPClient, descriptor: int) -> None:
    """Stop the machine and write its state to a file open at `descriptor`.

    Raises `HypervisorError` or `qemu.qmp.QMPError`.  The machine stays stopped.
    """
    await qmp.execute("stop")
    await qmp.execute("migrate-set-capabilities", _CAPABILITY)
    # An outgoing migration takes descriptors by name only, unlike an incoming one.
    qmp.send_fd_scm(descriptor)
    await qmp.execute("getfd", {"fdname": _DESCRIPTOR})
    await qmp.execute("migrate", {"uri": f"fd:{_DESCRIPTOR}"})
    while True:
        answer = await qmp.execute("query-migrate")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            reason = answer.get("error-desc", status) if isinstance(answer, dict) else status
            raise HypervisorError(f"QEMU could not save the machine: {reason}")
        await asyncio.sleep(_POLL)


async def load(qmp: QMPClient, descriptor: int) -> None:
    """Read the state that was saved from the file that QEMU inherited as `descriptor`.

    The machine is stopped afterwards.  Raises `qemu.qmp.QMPError`: QEMU ends on a state that does
    not fit.
    """
    await qmp.execute("migrate-set-capabilities", _CAPABILITY)
    await qmp.execute("migrate-incoming", {"uri": f"fd:{descriptor}"})
    while True:
        answer = await qmp.execute("query-status")
        if isinstance(answer, dict) and answer.get("status") != "inmigrate":
            return
        await asyncio.sleep(_POLL)
