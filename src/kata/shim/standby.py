"""The process that stands by: a shim with a guest, and without a pod (see `kata.shim.pool`)."""

import asyncio
import fcntl
import gc
import hashlib
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from typing import NoReturn

from kata.config import ConfigError, Configuration, load
from kata.host import libc, mounts, proc
from kata.sandbox import journal
from kata.sandbox.errors import StartError
from kata.sandbox.identity import STANDBY_PREFIX
from kata.sandbox.journal import Journal
from kata.sandbox.standby import Standby
from kata.shim import daemon, pool

_PAUSE = 1.0
"""Seconds after the start of a container, which has the processors for itself until then."""

_LIFETIME = 600.0
"""Seconds after which a guest that nobody has asked for goes: its host may have no use for it."""


def run(path: str) -> NoReturn:
    """Stand by with a guest of the configuration at `path`, and end this process.

    Called in a fresh child that has let go of everything.
    """
    status = 1
    try:
        gc.disable()
        os.chdir("/")
        libc.set_process_name("kata-standby")
        logging.getLogger().addHandler(logging.NullHandler())
        daemon.raise_oom_score()
        mounts.isolate()
        time.sleep(_PAUSE)
        status = asyncio.run(_stand_by(load(path)))
    except (OSError, ConfigError, StartError):
        pass  # the sandboxes of this configuration say the same where somebody reads it
    finally:
        os._exit(status)


async def _stand_by(configuration: Configuration) -> int:
    """Stand by and then be a shim; return the exit status of the process."""
    _sweep()
    place = _take_place(configuration.factory.vm_cache_number)
    if place is None:
        return 0
    path = place.getsockname()
    try:
        name = f"{STANDBY_PREFIX}{os.getpid()}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        standby = await Standby.start(configuration, name, path)
        daemon.preload()
        handed = await _commissioned(place, standby)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        place.close()
    if handed is None:
        await standby.give_back()
        standby.journal.discard()
        return 0
    os.environ.clear()
    os.environ.update(handed.environment)
    daemon.begin(handed.commission)
    return await daemon.serve(handed.commission, handed.listener, handed.starter, standby)


async def _commissioned(place: socket.socket, standby: Standby) -> pool.Handed | None:
    """Return what a `start` hands over, or None: the guest is lost, or it is time to go."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    place.settimeout(0)
    place.listen(1)
    taken = asyncio.ensure_future(_taken(place))
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


def _take_place(most: int) -> socket.socket | None:
    """Return a socket, bound in the pool, for one of `most` places; None when all are taken."""
    directory = pool.directory()
    if most == 0:
        with suppress(OSError):  # others stand by still; the last one that looks takes it along
            os.rmdir(directory)
        return None
    os.makedirs(directory, mode=0o700, exist_ok=True)
    turn = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if len(pool.places()) >= most:
            return None
        place = socket.socket(socket.AF_UNIX)
        place.bind(os.path.join(directory, f"{os.getpid()}.{proc.start_time(os.getpid())}"))
        return place
    finally:
        os.close(turn)


def _sweep() -> None:
    """Clean up after those that were killed while they stood by."""
    with suppress(FileNotFoundError):
        for name in os.listdir(journal.RUN_ROOT):
            if name.startswith(STANDBY_PREFIX):
                record = Journal.load(name)
                if record and not record.is_alive():
                    with suppress(OSError):
                        record.clean()
