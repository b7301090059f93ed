"""The process that stands by: a shim with a guest, and without a pod (see `kata.shim.pool`)."""

import asyncio
import gc
import hashlib
import logging
import os
import signal
import socket
from contextlib import suppress
from typing import NoReturn

from kata.config import ConfigError, load
from kata.host import mounts
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


def run(place: pool.Place, call: pool.Call) -> NoReturn:
    """Stand by at a place in the pool with the guest that is called for, and end this process.

    Called in a fresh child that has let go of everything.
    """
    status = 1
    try:
        gc.disable()
        os.chdir("/")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until there is somebody to wait for it
        logging.getLogger().addHandler(logging.NullHandler())
        daemon.raise_oom_score()
        mounts.isolate()
        status = asyncio.run(_stand_by(place, call))
    except (OSError, ConfigError, StartError, RpcError):
        pass  # the sandboxes of this configuration say the same where somebody reads it
    finally:
        os._exit(status)


async def _stand_by(place: pool.Place, call: pool.Call) -> int:
    """Stand by and then be a shim; return the exit status of the process."""
    path = place.listener.getsockname()
    try:
        _sweep()
        name = f"{STANDBY_PREFIX}{os.getpid()}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        spec = oci.decode_spec(call.spec.encode())
        standby = await Standby.start(load(call.path), name, path, spec)
        daemon.preload()
        handed = await _commissioned(place, standby)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        place.listener.close()
    if handed is None:
        await standby.give_back()
        standby.journal.discard()
        return 0
    os.environ.clear()
    os.environ.update(handed.environment)
    daemon.begin(handed.commission)
    return await daemon.serve(handed.commission, handed.listener, handed.starter, standby)


async def _commissioned(place: pool.Place, standby: Standby) -> pool.Handed | None:
    """Return what a `start` hands over, or None: the guest is lost, or it is time to go."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    place.listener.settimeout(0)
    place.listener.listen(1)
    place.fill_next()
    taken = asyncio.ensure_future(_taken(place.listener))
    others = [asyncio.ensure_future(each) for each in (standby.wait(), ending.wait())]
    try:
        await asyncio.wait({taken, *others}, timeout=_LIFETIME, return_when=asyncio.FIRST_COMPLETED)
        return taken.result() if taken.done() else None
    finally:
        for each in (taken, *others):
            each.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else signal.SIG_DFL)


async def _taken(place: socket.socket) -> pool.Handed:
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(place)
        # Not a `start`, or one that has died.
        with connection, suppress(OSError, ValueError, LookupError, TypeError):
            return pool.receive(connection)


def _sweep() -> None:
    """Clean up after those that were killed while they stood by."""
    with suppress(FileNotFoundError):
        for name in os.listdir(journal.RUN_ROOT):
            if name.startswith(STANDBY_PREFIX):
                record = Journal.load(name)
                if record and not record.is_alive():
                    with suppress(OSError):
                        record.clean()
