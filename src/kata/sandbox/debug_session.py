"""A program in a running guest itself, on this process's standard streams: the debug console.

Through the shim's socket, which only root can connect to, in the agent's own protocol; see
`kata.service.debug_console` for the other end.
"""

import asyncio
import os
import secrets
import signal
import termios
import threading
import tty
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from kata.agent_client.agent import Agent
from kata.sandbox.inventory import Found, InventoryError
from kata_api import oci
from ttrpc import RpcError
from ttrpc.client import Client

_ESCAPE = b"\x1d"
"""Ctrl-], as of telnet and `virsh console`: leaves a terminal whose guest does not answer."""

_SHELL = "/bin/sh"
_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
_CHUNK = 1 << 16
_INTERRUPTED = 128 + signal.SIGINT

_DIAL = 10.0
"""Seconds for the shim to take a connection."""

_DRAIN = 2.0
"""Seconds for the rest of the output once the program has ended."""


async def run(found: Found, command: Sequence[str], *, terminal: bool) -> int:
    """Run a command, or a shell without one, and return its exit status.

    With a `terminal`, it gets one of the size of ours, which passes every key on meanwhile. Raises
    `InventoryError`; the program has been killed, and our terminal is as it was before.
    """
    if found.state != "running":
        raise InventoryError(f"sandbox {found.id} is {found.state}; there is no guest to enter")
    try:
        client = await Client.connect_unix(found.socket, timeout=_DIAL)
    except OSError as error:
        raise InventoryError(f"cannot reach the shim at {found.socket}: {error}") from error
    try:
        session = _Session(Agent(client), f"debug-{secrets.token_hex(4)}")
        await session.agent.exec_process("", session.exec_id, _process(command, terminal=terminal))
        with _raw(wanted=terminal):
            return await session.run(terminal=terminal)
    except RpcError as error:
        raise InventoryError(error.message) from error
    finally:
        await client.close()  # upon which the shim ends what still runs


def _process(command: Sequence[str], *, terminal: bool) -> oci.Process:
    # The guest has one binary for all small programs, and the shell knows which they are.
    words = (_SHELL, "-c", 'exec "$@"', _SHELL, *command) if command else (_SHELL, "-i")
    return oci.Process(
        args=words,
        cwd="/",
        env=(_PATH, "HOME=/root", f"TERM={os.environ.get('TERM', 'linux')}"),
        terminal=terminal,
        console_size=_size() if terminal else None,
    )


class _Session:
    """A program in a guest, and this process's streams on it."""

    def __init__(self, agent: Agent, exec_id: str) -> None:
        self.agent = agent
        self.exec_id = exec_id
        self._left = asyncio.Event()

    async def run(self, *, terminal: bool) -> int:
        """Pass the streams on until the program has ended; return its status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._left.set)
        if terminal:
            loop.add_signal_handler(signal.SIGWINCH, self._resize)
        feeder = threading.Thread(
            target=self._feed, args=(loop,), kwargs={"terminal": terminal}, daemon=True
        )
        readers = [(self.agent.read_stdout, 1)]
        if not terminal:
            readers.append((self.agent.read_stderr, 2))
        outputs = [asyncio.create_task(self._copy(read, fd)) for read, fd in readers]
        left = asyncio.create_task(self._left.wait())
        exit_ = asyncio.create_task(self.agent.wait_process("", self.exec_id))
        feeder.start()
        try:
            await asyncio.wait({left, exit_}, return_when=asyncio.FIRST_COMPLETED)
            if not exit_.done():
                return _INTERRUPTED
            await asyncio.wait(outputs, timeout=_DRAIN)
            return exit_.result().status
        finally:
            for task in (left, exit_, *outputs):
                task.cancel()
            await asyncio.gather(left, exit_, *outputs, return_exceptions=True)

    async def _copy(self, read: Callable[[str, str, int], Awaitable[bytes]], target: int) -> None:
        while data := await read("", self.exec_id, _CHUNK):
            view = memoryview(data)
            while view:
                view = view[await asyncio.to_thread(os.write, target, view) :]

    def _feed(self, loop: asyncio.AbstractEventLoop, *, terminal: bool) -> None:
        """Pass standard input on, in a thread that nobody waits for: a read cannot be cancelled."""
        with suppress(RpcError, OSError, RuntimeError):
            while data := os.read(0, _CHUNK):
                if terminal and _ESCAPE in data:
                    loop.call_soon_threadsafe(self._left.set)
                    return
                asyncio.run_coroutine_threadsafe(self._write(data), loop).result()
            end = self.agent.close_stdin("", self.exec_id)
            asyncio.run_coroutine_threadsafe(end, loop).result()

    async def _write(self, data: bytes) -> None:
        while data:
            data = data[await self.agent.write_stdin("", self.exec_id, data) :]

    def _resize(self) -> None:
        size = _size()
        if size:
            task = asyncio.create_task(
                self.agent.resize_terminal("", self.exec_id, size.height, size.width)
            )
            task.add_done_callback(lambda done: done.exception())  # the program may have ended


def _size() -> oci.Box | None:
    with suppress(OSError):
        size = os.get_terminal_size(0)
        return oci.Box(height=size.lines, width=size.columns)
    return None


@contextmanager
def _raw(*, wanted: bool) -> Iterator[None]:
    """Have the guest's terminal interpret every key, and ours none, until the end."""
    if not wanted or not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what has been typed ahead counts
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
