"""The process that stands by: a shim with a guest, and without a pod (see `kata.shim.pool`)."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NoReturn

from kata.config import ConfigError, load
from kata.host import mounts
from kata.host.digest import sha256_of_text
from kata.sandbox import journal
from kata.sandbox.errors import StartError
from kata.sandbox.identity import STANDBY_PREFIX
from kata.sandbox.journal import Journal
from kata.sandbox.standby import Standby
from kata.shim import daemon, pool
from kata_api import oci
from ttrpc import RpcError

_LIFETIME = 600.0
"""Seconds after which a guest that nobody has asked for goes: its host may have no use for it."""

_FAILURES = (OSError, ConfigError, StartError, RpcError)


def run(place: pool.Place, call: pool.Call) -> NoReturn:
    """Stand by at a place in the pool with the guest that is called for, and end this process.

    Called in a fresh child that has let go of everything.
    """
    status = 1
    path = place.listener.getsockname()
    try:
        gc.disable()
        os.chdir("/")
        logging.getLogger().addHandler(logging.NullHandler())
        daemon.raise_oom_score()
        mounts.isolate()
        status = asyncio.run(_stand_by(place, call))
    except Exception as error:  # noqa: BLE001 - the next sandbox says it
        kind = "" if isinstance(error, _FAILURES) else f"{type(error).__name__}: "
        pool.note_failure(path, f"{call.path}: {kind}{error}")
    finally:
        os._exit(status)


async def _stand_by(place: pool.Place, call: pool.Call) -> int:
    """Stand by and then be a shim; return the exit status of the process."""
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # of no effect once it is a shim
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    path = place.listener.getsockname()
    handed = None
    try:
        standby = await _unless(ending, _started(call, path))
        if standby is None:
            return 0
        try:
            daemon.preload()
            import rtnetlink  # noqa: F401  # most who are served from the pool have a network

            handed = await _commissioned(place, standby, ending)
        finally:
            if handed is None:
                await standby.end()
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        place.listener.close()
    if handed is None:
        return 0
    os.environ.clear()
    os.environ.update(handed.environment)
    try:
        with daemon.mourned(handed.commission):
            daemon.begin(handed.commission)
            return await daemon.serve(handed.commission, handed.listener, handed.starter, standby)
    except Exception:  # noqa: BLE001 - the sandbox's log has it
        return 1
    finally:
        if not standby.is_taken:
            await standby.end()


async def _started(call: pool.Call, path: str) -> Standby | None:
    """Return a guest that has rehearsed, or None when nobody is to stand by any more.

    Raises `StartError`, and what else its parts raise.
    """
    sweep()
    name = f"{STANDBY_PREFIX}{os.getpid()}-{sha256_of_text(path)[:8]}"
    configuration = load(call.path)
    if configuration.factory.vm_cache_number == 0:
        return None
    spec = oci.decode_spec(call.spec.encode())
    try:
        return await Standby.start(configuration, name, path, spec)
    except (RpcError, TimeoutError):  # no shell can live with every seccomp profile
        return await Standby.start(configuration, name, path, None)


async def _unless(
    ending: asyncio.Event, starting: Coroutine[Any, Any, Standby | None]
) -> Standby | None:
    """Return what is started, or None, nothing of it being left, when it is time to go."""
    start, end = asyncio.ensure_future(starting), asyncio.ensure_future(ending.wait())
    await asyncio.wait({start, end}, return_when=asyncio.FIRST_COMPLETED)
    end.cancel()
    if start.done():
        return start.result()
    start.cancel()
    with suppress(asyncio.CancelledError):
        if late := await start:
            await late.end()
    return None


async def _commissioned(
    place: pool.Place, standby: Standby, ending: asyncio.Event
) -> pool.Handed | None:
    """Return what a `start` hands over, or None: the guest is lost, or it is time to go."""
    path = place.listener.getsockname()
    pool.failure(path)  # an earlier one's is of no interest any more
    place.listener.settimeout(0)
    place.listener.listen(1)
    place.fill_next()
    taken = asyncio.ensure_future(_taken(place.listener))
    others = [asyncio.ensure_future(each) for each in (standby.wait(), ending.wait())]
    try:
        await asyncio.wait({taken, *others}, timeout=_LIFETIME, return_when=asyncio.FIRST_COMPLETED)
        if others[0].done() and not taken.done():
            pool.note_failure(path, f"the guest that stood by is lost: {others[0].result()}")
        return taken.result() if taken.done() else None
    finally:
        for each in (taken, *others):
            each.cancel()


async def _taken(place: socket.socket) -> pool.Handed:
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(place)
        # Not a `start`, or one that has died.
        with connection, suppress(OSError, ValueError, LookupError, TypeError):
            return pool.receive(connection)


def sweep() -> None:
    """Clean up after those that were killed while they stood by, or before a sandbox took them."""
    with suppress(FileNotFoundError):
        for name in os.listdir(journal.RUN_ROOT):
            if name.startswith(STANDBY_PREFIX) and (record := Journal.abandoned(name)):
                try:
                    with suppress(OSError):
                        record.clean()
                finally:
                    record.release()
