"""The pool of guests that stand by (`vm_cache_number`), as far as `start` deals with it.

Theory of operation.  A process that stands by (`kata.shim.standby`) has all that a shim imports, and a
guest restored from its template that has rehearsed.  `start` hands it a commission, and it is the shim:
nothing is left to do but what the pod itself asks for.

It is forked by the `start` of an earlier sandbox, in containerd's surroundings rather than in a pod's, and
waits there at a pipe until that sandbox's first container runs, so as not to slow it down.  What comes
through the pipe is a `Call`; nothing comes when the start fails.  Where several may stand by, whoever has a
place forks the process for the next one; all restore and rehearse one after the other.

The directory below is there while a configuration asks for a pool, and is the pool's of one
installation: another version never takes over a shim of this one.  Names in it say who stands by
there, by pid and start time, so that a dead one's place is free again.
"""

import fcntl
import json
import os
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from kata.host import proc
from kata.shim.arguments import Arguments
from kata.shim.commission import Commission

if TYPE_CHECKING:
    from kata.config import Configuration
    from kata_api import oci

ROOT = "/run/kata-containers/standby"

NAME = "kata-standby"
"""The name of processes that stand by, or wait to."""

_INSTALLED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "__init__.py")
"""The first file of our packages, which every installation writes anew."""

_PATIENCE = 1.0
"""Seconds for a process that stands by to take a commission, which takes it a millisecond."""

_MESSAGE_LIMIT = 1 << 20

_END, _GO = b"\n", b"."
"""The end of a commission, and what makes it valid once `start` knows who has it."""

_UNSEEN = (
    "who stood by does not see what the host has mounted at {unseen} since; as long as the host's "
    "mounts are not shared (`mount --make-rshared /`), vm_cache_number is of no use"
)

_FAILURE = "failure"
"""The file of the pool that says why the last one that was to stand by cannot."""

_FAILURE_LIMIT = 3072  # a line of the log then fits into a pipe at once

_PAUSE = 1.0
"""Seconds after the start of a container, which has the processors for itself until then."""


def directory() -> str:
    """Return the directory of this installation's pool, which need not be there."""
    found = os.stat(_INSTALLED)
    return os.path.join(ROOT, f"{found.st_dev:x}-{found.st_ino:x}-{found.st_mtime_ns:x}")


def is_open() -> bool:
    """Tell whether a configuration has asked for a pool."""
    return os.path.isdir(directory())


class Call(NamedTuple):
    """What a sandbox that has started says to a process that may stand by for the next one.

    `path` is the configuration's, `most` how many may stand by for it, and `spec` a specification, as
    JSON, of which a rehearsal has the confinement.
    """

    path: str
    most: int
    spec: str


def tell(starter: int, configuration: "Configuration", spec: "oci.Spec") -> None:
    """Note that a sandbox of this configuration has started, with a container confined as in `spec`.

    `starter` is the pipe's end, or -1.
    """
    from kata_api import oci

    most = configuration.factory.vm_cache_number
    if most:
        with suppress(OSError):
            os.makedirs(directory(), mode=0o700, exist_ok=True)
    if starter >= 0:
        call = Call(configuration.path, most, oci.encode(spec).decode())
        with suppress(OSError):  # who does not read is not waited for, and does not stand by
            os.set_blocking(starter, False)
            with suppress(OSError):  # beyond what an administrator allows
                fcntl.fcntl(starter, fcntl.F_SETPIPE_SZ, _MESSAGE_LIMIT)
            os.write(starter, json.dumps(call).encode())
        os.close(starter)


class Place(NamedTuple):
    """A place in the pool, whose owner has the turn until `fill_next`; others wait for it meanwhile.

    A commission comes at `listener`.  `turn` and `next` are descriptors: of the pool with a lock, and of a
    pipe to whoever waits for the next place, or -1.
    """

    listener: socket.socket
    turn: int
    next: int

    def fill_next(self) -> None:
        """Let others take places, now that this one is taken in earnest."""
        if self.next >= 0:
            with suppress(OSError):
                os.write(self.next, b".")
            os.close(self.next)
        os.close(self.turn)


def answer(pipe: int) -> tuple[Place, Call] | None:
    """Wait for the call at the end of a pipe; return it with a place for this process in the pool.

    None when nobody calls, or all places are taken.  While there are more places, returns once in this
    process, and once for each in a process that it forks, which waits until this one stands by.
    """
    # It has nothing to give back yet, and whoever ends those that stand by means it, too.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open("/proc/self/comm", "w") as comm:
        comm.write(NAME)
    ours = directory()
    with open(pipe, "rb") as file:
        data = file.read()  # to the end: the writer may die at any moment
    try:
        call = Call(*json.loads(data))
    except ValueError:
        return None  # nobody calls, or not to the end
    if call.most == 0:
        failure()
        with suppress(OSError):  # others stand by still; the last one that looks takes it along
            os.rmdir(ours)
        from kata.shim.standby import sweep

        sweep()
        return None
    if len(places()) >= call.most:
        return None
    time.sleep(_PAUSE)
    for left in reversed(range(call.most)):
        taken = _take_place(call.most)
        if taken is None or directory() != ours:  # there is another installation meanwhile
            return None
        listener, turn = taken
        if not left or len(places()) >= call.most:
            return Place(listener, turn, -1), call
        reader, writer = os.pipe()
        if not _forked_away():
            os.close(reader)
            return Place(listener, turn, writer), call
        listener.close()
        os.close(turn)
        os.close(writer)
        with open(reader, "rb") as before:
            if not before.read():
                return None  # the one before could not stand by, and neither could this one
    return None


def _forked_away() -> bool:
    """Fork a process that is no child of ours, and tell whether this is that one."""
    child = os.fork()
    if child == 0:
        if os.fork():
            os._exit(0)
        return True
    os.waitpid(child, 0)
    return False


def _take_place(most: int) -> tuple[socket.socket, int] | None:
    """Wait for the turn, and return a socket for one of `most` places with it; None when all are taken."""
    above = directory()
    os.makedirs(above, mode=0o700, exist_ok=True)
    turn = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if len(places()) >= most:
            os.close(turn)
            return None
        place = socket.socket(socket.AF_UNIX)
        place.bind(os.path.join(above, f"{os.getpid()}.{proc.start_time(os.getpid())}"))
    except BaseException:
        os.close(turn)
        raise
    return place, turn


def places() -> list[str]:
    """Return the paths of the sockets of the living; those of the dead are removed."""
    living = []
    with suppress(FileNotFoundError):
        for name in os.listdir(directory()):
            if name == _FAILURE:
                continue
            pid, _, started = name.removesuffix(f".{_FAILURE}").partition(".")
            path = os.path.join(directory(), name)
            if pid.isdigit() and started.isdigit() and proc.is_running(int(pid), int(started)):
                if not name.endswith(_FAILURE):
                    living.append(path)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)
    return living


def commission(wanted: Commission, listener: socket.socket, starter: int) -> tuple[int, Commission]:
    """Hand a commission to a process that stands by; return its pid, or 0 when there is none.

    Also returns the commission, which says why if there is one that cannot be used.
    """
    for path in places():
        pid = int(os.path.basename(path).partition(".")[0])
        if unseen := _unseen(pid):
            wanted = wanted._replace(passed_over=_UNSEEN.format(unseen=unseen))
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM)  # it never will
            continue
        message = json.dumps(
            {
                **wanted._asdict(),
                "options": wanted.options.hex(),
                "environment": dict(os.environ),
            }
        ).encode()
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(path)
            handed = [listener.fileno(), *([starter] if starter >= 0 else [])]
            socket.send_fds(connection, [message + _END], handed)
            taken_by = int(connection.recv(16))
            connection.sendall(_GO)
            return taken_by, wanted
    if not wanted.passed_over and (text := failure()):
        wanted = wanted._replace(passed_over=f"nobody stands by: {text}")
    return 0, wanted


def note_failure(place: str, text: str) -> None:
    """Leave word, for the next sandbox's log, of why nobody stands by at the socket `place`."""
    path = os.path.join(os.path.dirname(place), _FAILURE)
    with suppress(OSError):
        # It is removed like the place, should this process die.
        unfinished = f"{place}.{_FAILURE}"
        with open(unfinished, "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace")[:_FAILURE_LIMIT])
        os.replace(unfinished, path)


def failure(place: str = "") -> str:
    """Return what was noted of a failure, in the pool that the socket `place` is in; "" for none.

    It is told once: what was noted is gone.
    """
    path = os.path.join(os.path.dirname(place) or directory(), _FAILURE)
    try:
        with open(path, "rb") as file:
            noted = file.read(_FAILURE_LIMIT)
        os.unlink(path)
    except OSError:
        return ""
    return noted.decode("utf-8", "replace")


def _unseen(pid: int) -> str:
    """Return the place of a mount that we see and the process `pid` does not, or "".

    A pod's volumes and its network namespace are mounts that the host makes for it.
    """
    try:
        unseen = proc.mounted(os.getpid()) - proc.mounted(pid)
    except OSError:
        return ""  # it has just ended
    # No mount namespace is given the files that others are pinned by, as snap does on Ubuntu.
    unseen = {row for row in unseen if not row[1].startswith(b"mnt:[")}
    if unseen:  # unless somebody has unmounted it between our looks
        unseen &= proc.mounted(os.getpid())
    return min((point.decode(errors="replace") for _, _, point in unseen), default="")


class Handed(NamedTuple):
    """What `start` has handed over: `starter` is the pipe's end, or -1 (`kata.shim.daemon.run`)."""

    commission: Commission
    environment: dict[str, str]
    listener: socket.socket
    starter: int


def receive(connection: socket.socket) -> Handed:
    """Take what `start` hands over, and tell it that it is taken.

    Raises `OSError`, `ValueError`, and `LookupError` or `TypeError` for a record that is none; no
    descriptor is left open then.
    """
    connection.settimeout(_PATIENCE)
    data, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_LIMIT, 2)
    try:
        while not data.endswith(_END):
            part = connection.recv(_MESSAGE_LIMIT)
            if not part:
                raise ValueError("a commission without its end")
            data += part
        record = json.loads(data)
        wanted = Commission(
            Arguments(*record["arguments"]),
            record["bundle"],
            record["path"],
            record["origin"],
            bytes.fromhex(record["options"]),
            record["passed_over"],
        )
        environment = record["environment"]
        if not descriptors:
            raise ValueError("a commission without a socket")
        # `start` makes another shim unless it hears from us, and we are none unless it has.
        connection.send(str(os.getpid()).encode())
        connection.settimeout(10 * _PATIENCE)  # one that is dead has closed the connection
        if connection.recv(1) != _GO:
            raise ValueError("a commission that was taken back")
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    starter = descriptors[1] if len(descriptors) > 1 else -1
    return Handed(wanted, environment, socket.socket(fileno=descriptors[0]), starter)
