"""The shim process proper: serves the task service until its last container is gone."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from kata.shim.commission import Commission

if TYPE_CHECKING:
    from kata.sandbox.standby import Standby
    from kata.service.sandbox_owner import SandboxOwner

_FLUSH_TIMEOUT = 3.0
"""Seconds for the last events to reach containerd."""


def run(commission: Commission, listener: socket.socket, starter: int) -> NoReturn:
    """Serve on `listener` until the end, then end this process.

    `starter` is a descriptor which is written to once a container runs, or -1 (`kata.shim.pool`).
    Called in a fresh child: lets go of everything it inherited before anything else, since
    containerd waits for the end of our output.
    """
    detach({listener.fileno(), starter})

    import gc

    gc.disable()  # a sixth of what importing costs, for garbage that it does not make

    from kata.shim import footprint

    footprint.reduce()
    import asyncio

    from kata.host import mounts

    status = 1
    try:
        with mourned(commission):
            begin(commission)
            raise_oom_score()
            mounts.isolate()
            status = asyncio.run(serve(commission, listener, starter))
    finally:
        os._exit(status)


@contextmanager
def mourned(commission: Commission) -> Iterator[None]:
    """Log an error of the shim's own, and free its path for a successor."""
    import logging

    ours = None
    try:
        ours = os.stat(commission.path)
        yield
    except BaseException:
        logging.getLogger(__name__).exception("the shim ends because of an error of its own")
        with suppress(OSError):
            if ours and os.path.samestat(os.stat(commission.path), ours):
                os.unlink(commission.path)
        raise


def begin(commission: Commission) -> None:
    """Become the shim of a bundle: its log, its cores, its name."""
    import logging

    from kata.host import libc
    from kata.shim.log import open_log

    open_log(commission.bundle, debug=commission.arguments.debug)
    os.chdir("/")  # the bundle is not ours to hold, and paths of other bundles are absolute
    libc.set_process_name("kata-shim")
    if commission.passed_over:
        logging.getLogger(__name__).warning(commission.passed_over)
    if os.environ.get("SCHED_CORE"):  # containerd's `sched_core`
        try:
            libc.claim_cores()
        except OSError as error:
            logging.getLogger(__name__).warning(
                "the pod may share processor cores with others: SCHED_CORE: %s", error
            )


def detach(kept: set[int]) -> None:
    """Leave the session, its signals, and every descriptor but those `kept`."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    ends = [2, *sorted(kept - {-1}), os.sysconf("SC_OPEN_MAX")]
    for below, above in pairwise(ends):
        os.closerange(below + 1, above)
    os.setsid()
    # systemd ends units with SIGTERM; a shim ends with its containers.
    for ignored in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)


def raise_oom_score() -> None:
    """Let the kernel prefer us to containerd when memory runs out, as runc's shim does.

    containerd's unit protects itself with a low score, which the guest's memory must not inherit.
    """
    path = "/proc/self/oom_score_adj"
    with open(path) as file:
        score = int(file.read())
    with suppress(PermissionError), open(path, "w") as file:
        file.write(str(min(score + 1, 1000)))


def preload() -> None:
    """Import what `serve` will."""
    from kata.service import debug_console, sandbox, task  # noqa: F401
    from ttrpc import server  # noqa: F401


async def serve(
    commission: Commission,
    listener: socket.socket,
    starter: int,
    standby: "Standby | None" = None,
) -> int:
    """Serve until the end and return the exit status: 1 when not everything could be given back.

    The arguments are those of `run`, and a guest that stands by for the sandbox.
    """
    import asyncio
    import gc

    from kata.service import debug_console
    from kata.service.publisher import Publisher
    from kata.service.sandbox import SandboxService
    from kata.service.sandbox_owner import SandboxOwner
    from kata.service.task import TaskService
    from kata.shim import pool
    from kata_api import sandbox, task
    from ttrpc.server import Server, bind

    gc.freeze()
    gc.enable()
    shutdown = asyncio.Event()
    namespace, path = commission.arguments.namespace, commission.path
    publisher = Publisher(os.environ.get("TTRPC_ADDRESS", ""), namespace)
    told = partial(pool.tell, starter)
    owner = SandboxOwner(publisher, path, commission.origin, standby, told)
    service = TaskService(owner, publisher, shutdown.set)
    # A containerd that restarts must not cancel a Create that is under way.
    server = Server(
        bind(task.v2, service),
        bind(task.v3, service),
        bind(sandbox.METHODS, SandboxService(owner, commission.options, shutdown.set)),
        debug_console.methods(lambda: owner.sandbox),
        cancel_on_disconnect=False,
    )
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publisher.run())
        serving = group.create_task(server.serve_unix(listener))
        await shutdown.wait()
        # While we still listen: from here on the path is free for a successor.
        with suppress(OSError):
            os.unlink(path)
        # Everything is given back before a connection closes, upon which containerd runs `delete`.
        status = await _end(owner)
        # The answer to Shutdown goes out first.
        await asyncio.sleep(0.01)
        await server.close()
        if owner.present:  # brought up while the server closed
            status = max(status, await _end(owner))
        await publisher.flush(_FLUSH_TIMEOUT)
        publishing.cancel()
        serving.cancel()
    return status


async def _end(owner: "SandboxOwner") -> int:
    """Have everything given back; return the exit status for it."""
    import logging

    try:
        await owner.end()
    except Exception:
        # containerd waits for the events all the same, and its `delete` gives back the rest.
        logging.getLogger(__name__).exception("not everything of the sandbox was given back")
        return 1
    return 0
