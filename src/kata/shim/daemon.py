"""The shim process proper: serves the task service until its last container is gone."""

import os
import signal
import socket
from contextlib import suppress

from kata.shim.arguments import Arguments

_FLUSH_TIMEOUT = 3.0
"""Seconds for the last events to reach containerd."""


def run(
    arguments: Arguments,
    bundle: str,
    path: str,
    listener: socket.socket,
    origin: float,
    options: bytes,
) -> None:
    """Serve on `listener` until the end, then end this process.

    `options` are the encoded runtime options that `start` was given.
    Called in a fresh child: lets go of everything it inherited before anything else, since
    containerd waits for the end of our output.
    """
    _detach(listener.fileno())

    import asyncio
    import gc
    import logging

    from kata.host import libc, mounts
    from kata.shim.log import open_log

    open_log(bundle, debug=arguments.debug)
    os.chdir("/")  # the bundle is not ours to hold, and paths of other bundles are absolute
    log = logging.getLogger(__name__)
    status = 1
    try:
        _raise_oom_score()
        libc.set_process_name("kata-shim")
        mounts.isolate()
        gc.freeze()
        status = asyncio.run(_serve(arguments, path, listener, origin, options))
    except BaseException:
        log.exception("the shim ends because of an error of its own")
        with suppress(OSError):
            os.unlink(path)
    finally:
        os._exit(status)


def _detach(kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    # systemd ends units with SIGTERM; a shim ends with its containers.
    for ignored in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)


def _raise_oom_score() -> None:
    """Let the kernel prefer us to containerd when memory runs out, as runc's shim does.

    containerd's unit protects itself with a low score, which the guest's memory must not inherit.
    """
    path = "/proc/self/oom_score_adj"
    with open(path) as file:
        score = int(file.read())
    with suppress(PermissionError), open(path, "w") as file:
        file.write(str(min(score + 1, 1000)))


async def _serve(
    arguments: Arguments, path: str, listener: socket.socket, origin: float, options: bytes
) -> int:
    """Serve until the end and return the exit status: 1 when not everything could be given back."""
    import asyncio
    import logging

    from kata.service import debug_console
    from kata.service.publisher import Publisher
    from kata.service.sandbox import SandboxService
    from kata.service.sandbox_owner import SandboxOwner
    from kata.service.task import TaskService
    from kata_api import sandbox, task
    from ttrpc.server import Server, bind

    status = 0
    shutdown = asyncio.Event()
    publisher = Publisher(os.environ.get("TTRPC_ADDRESS", ""), arguments.namespace)
    owner = SandboxOwner(publisher, path, origin)
    service = TaskService(owner, publisher, shutdown.set)
    # A containerd that restarts must not cancel a Create that is under way.
    server = Server(
        bind(task.v2, service),
        bind(task.v3, service),
        bind(sandbox.METHODS, SandboxService(owner, options, shutdown.set)),
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
        try:
            await owner.end()
        except Exception:
            # containerd waits for the events all the same, and its `delete` gives back the rest.
            logging.getLogger(__name__).exception("not everything of the sandbox was given back")
            status = 1
        # The answer to Shutdown goes out first.
        await asyncio.sleep(0.01)
        await server.close()
        await publisher.flush(_FLUSH_TIMEOUT)
        publishing.cancel()
        serving.cancel()
    return status
