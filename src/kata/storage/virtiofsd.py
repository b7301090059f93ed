"""The virtiofsd process that serves a share.

Both daemons in use take these arguments: the C one that comes with QEMU up to 7.2, and the Rust
one of later distributions through its compatible `-o` form.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from kata.host import child, libc, proc
from kata.host.grandchild import Grandchild
from kata.host.tail import Tail

_log = logging.getLogger(__name__)

_CACHE_MODES = {"never": "none", "auto": "auto", "always": "always"}
"""Upstream's words for `virtio_fs_cache`, and the daemon's."""


_CAPABILITIES = (
    *(libc.CAP_CHOWN, libc.CAP_DAC_OVERRIDE, libc.CAP_FOWNER, libc.CAP_FSETID, libc.CAP_MKNOD),
    *(libc.CAP_SETFCAP, libc.CAP_SETGID, libc.CAP_SETUID),
    *(libc.CAP_SETPCAP, libc.CAP_SYS_ADMIN, libc.CAP_SYS_CHROOT, libc.CAP_SYS_RESOURCE),
)
"""The eight that it serves files with, and four that it needs to lock itself in and then drops."""


_OURS = frozenset(("source", "shared-dir", "fd", "socket", "socket-path", "vhost_user_socket"))


class VirtiofsdError(Exception):
    """The daemon could not be started or has ended; the text names cause and remedy."""


def check_extra(extra: Sequence[str]) -> None:
    """Refuse further arguments that would change what is served, or where.

    Raises `VirtiofsdError`.
    """
    for word in extra:
        for part in word.removeprefix("-o").split(","):
            if part.lstrip("-").partition("=")[0] in _OURS:
                raise VirtiofsdError(
                    f"virtio_fs_extra_args in [hypervisor.qemu] cannot have {word}: what is shared, "
                    "and on which socket, is up to the sandbox; remove it"
                )


class Virtiofsd:
    """A running daemon that listens on `socket_path`."""

    def __init__(self, process: child.Child, output: Tail, socket_path: str) -> None:
        self.process = process
        self.socket_path = socket_path
        self._output = output
        self._connected = False
        self._inner: dict[int, Grandchild] = {}

    def __repr__(self) -> str:
        return f"<Virtiofsd {self.process!r}>"

    @classmethod
    def start(
        cls,
        program: str,
        source: str,
        socket_path: str,
        *,
        cache: str,
        extra: Sequence[str],
        prepare: Callable[[], None],
    ) -> "Virtiofsd":
        """Start the daemon on a socket that already listens, so that nobody has to poll for it.

        `prepare` runs in its process before exec.  Raises `VirtiofsdError`; no process and no
        socket is left then.
        """
        check_extra(extra)

        def before_exec() -> None:
            prepare()
            # It makes files as the guest's user, but knows no more than that one's first group.
            # The guest's kernel has asked whether any of the groups may; with its rights kept,
            # the daemon need not refuse what has been allowed there.
            libc.keep_capabilities_across_users()

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        output = Tail(read_end)
        try:
            listener.bind(socket_path)
            os.chmod(socket_path, 0o600)
            listener.listen(1)
            command = [
                program,
                f"--fd={listener.fileno()}",
                "-o", f"source={source}",
                "-o", f"cache={_CACHE_MODES[cache]}",
                "-o", "xattr",
                *extra,
            ]  # fmt: skip
            process = child.spawn(
                command,
                pass_fds=(listener.fileno(),),
                output=write_end,
                prepare=before_exec,
                capabilities=_CAPABILITIES,
            )
        except OSError as error:
            output.close()
            if os.path.exists(socket_path):
                os.unlink(socket_path)
            raise VirtiofsdError(
                f"cannot start {program}: {error.strerror}; install virtiofsd or set "
                "`virtio_fs_daemon` in [hypervisor.qemu] to where it is, or shared_fs = "
                '"virtio-9p", which needs none'
            ) from error
        finally:
            listener.close()
            os.close(write_end)
        return cls(process, output, socket_path)

    def disconnect_path(self) -> None:
        """Remove the socket's path once the virtual machine is connected."""
        self._connected = True
        self._hold_inner()
        self._remove_path()

    def _hold_inner(self) -> None:
        """Have a hold on the processes that it has forked into its sandbox.

        One of them serves; the first process only waits for it, and can be killed alone.
        """
        if self.process.exit_code is None:  # else the pid may be another's by now
            for pid in proc.children(self.process.pid):
                if pid not in self._inner:
                    with suppress(ProcessLookupError):
                        self._inner[pid] = Grandchild(pid)

    def _remove_path(self) -> None:
        if os.path.exists(self.socket_path):
            os.unlink(self.socket_path)

    async def wait(self) -> str:
        """Wait until the daemon has ended and say in words how."""
        code = await self.process.wait()
        said = "; ".join(self._output.lines(3))
        return f"virtiofsd {child.describe_exit(code)}" + (f" and said: {said}" if said else "")

    async def stop(self, grace: float = 1.0) -> None:
        """End the daemon with all its processes; may be called again.

        It ends by itself when the machine has gone.  One that has never had a machine waits for it, and
        is not waited for.
        """
        until = time.monotonic() + (grace if self._connected else 0)
        self._hold_inner()
        await self.process.end(max(0, until - time.monotonic()))
        while self._inner:
            _, inner = self._inner.popitem()
            if not await inner.end(max(0, until - time.monotonic())):
                _log.warning(
                    "virtiofsd's process %d does not end; does its storage hang?", inner.pid
                )
        self._output.close()
        self._remove_path()
