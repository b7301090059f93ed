"""The directory of templates: whole ones only, checked before they are used, one maker at a time.

A template is a directory named by its key, with the files `memory`, `state` and `template.json`.
It appears by a rename when it is complete, so nobody ever sees half of one.  The hashes are checked
when something about the files has changed since they last were, and once after every boot.
"""

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass

from kata.hypervisor import memory_file
from kata.hypervisor.port import Snapshot
from kata.template.key import Key, identity

_RECORD = "template.json"
_FAILURES = "failures"
_LOCK = ".lock"
_DRAFT = ".draft"

_MOST_FAILURES = 2
"""Clones in a row that do not answer, after which it is the template's fault."""

_MOST = 8
"""Templates that are kept, of as many configurations."""

_POLL = 0.02
"""Seconds between two looks at a lock that somebody else holds."""

_log = logging.getLogger(__name__)


class TemplateError(Exception):
    """There is no template and none can be made, though a machine may well boot."""


@dataclass(slots=True)
class Template:
    """A template as its record has it; sizes in bytes, `made_at` in seconds of the epoch.

    `trusted` is the boot in which the hashes were checked last, and what the files were then.
    """

    name: str
    inputs: dict[str, object]
    made_at: float
    took_seconds: float
    memory_bytes: int
    memory_digest: str
    state_digest: str
    trusted: list[object]


class Store:
    """The templates below one directory."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"<Store {self.root}>"

    def snapshot(self, name: str) -> Snapshot:
        """Return the files of a template, whether or not they exist."""
        directory = os.path.join(self.root, name)
        return Snapshot(os.path.join(directory, "memory"), os.path.join(directory, "state"))

    def ready(self, key: Key) -> Snapshot | None:
        """Return a template that needs no further check, or None.

        Raises `OSError` when the directory is not ours alone.
        """
        if not os.path.isdir(self.root):
            return None
        self._check_owner()
        template = self.load(key.name)
        snapshot = self.snapshot(key.name)
        if template is None or template.trusted != _now(snapshot):
            return None
        with suppress(OSError):  # it may be removed this moment; how recent it is matters little
            os.utime(os.path.join(self.root, key.name))
        return snapshot

    def checked(self, key: Key) -> Snapshot | None:
        """Return a template after a check of its hashes; a damaged one is removed.

        Call it within `turn`.
        """
        template = self.load(key.name)
        if template is None:
            if os.path.isdir(os.path.join(self.root, key.name)):
                self.remove(key.name)
            return None
        snapshot = self.snapshot(key.name)
        if template.trusted != _now(snapshot):
            damage = _damage(template, snapshot)
            if damage:
                _log.warning("the template %s is made again: %s", key.name, damage)
                self.remove(key.name)
                return None
            template.trusted = _now(snapshot)
            self._write(template, os.path.join(self.root, key.name))
        return snapshot

    @asynccontextmanager
    async def turn(self, key: Key, timeout: float) -> AsyncIterator[None]:
        """Be the only one that checks or makes a template, waiting `timeout` seconds at most.

        Raises `TemplateError`, and `OSError` when the directory cannot be used.
        """
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self._check_owner()
        deadline = time.monotonic() + timeout
        while (lock := self._take(key.name)) is None:
            if time.monotonic() > deadline:
                raise TemplateError(
                    f"somebody else has been making the template {key.name} for {timeout:g} s"
                )
            await asyncio.sleep(_POLL)
        try:
            yield
        finally:
            os.close(lock)

    def _take(self, name: str) -> int | None:
        """Return the descriptor of a template's lock, or None while somebody else holds it."""
        path = os.path.join(self.root, f"{name}{_LOCK}")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == os.stat(path).st_ino:  # else it was swept meanwhile
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def sweep(self) -> None:
        """Remove what makers and removers that were killed have left, and locks nobody needs."""
        for entry in os.listdir(self.root):
            name, _, kind = entry.partition(".")
            if kind.startswith("removed."):
                shutil.rmtree(os.path.join(self.root, entry), ignore_errors=True)
            elif f".{kind}" in (_DRAFT, _LOCK) and not os.path.exists(
                os.path.join(self.root, name)
            ):
                lock = self._take(name)
                if lock is not None:
                    shutil.rmtree(os.path.join(self.root, f"{name}{_DRAFT}"), ignore_errors=True)
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.root, f"{name}{_LOCK}"))
                    os.close(lock)

    def _check_owner(self) -> None:
        found = os.stat(self.root)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(
                f"the directory of templates {self.root} is not ours alone: make it owned by root "
                "with mode 0700, or set `template_path` in [factory] to another one"
            )

    def draft(self, key: Key) -> str:
        """Make and return the directory in which a template is made; see `publish`.

        What makers that were killed have left is removed.  Call it within `turn`.
        """
        path = os.path.join(self.root, f"{key.name}{_DRAFT}")
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path, 0o700)
        return path

    def publish(self, key: Key, draft: str, digest: str, size: int, seconds: float) -> Snapshot:
        """Let everybody see what was made in `draft`: memory with `digest` and `size`, and state.

        Raises `OSError`.
        """
        here = Snapshot(os.path.join(draft, "memory"), os.path.join(draft, "state"))
        self._write(
            Template(
                name=key.name,
                inputs=key.inputs,
                made_at=time.time(),
                took_seconds=round(seconds, 3),
                memory_bytes=size,
                memory_digest=digest,
                state_digest=_sha256(here.state),
                trusted=_now(here),
            ),
            draft,
        )
        os.rename(draft, os.path.join(self.root, key.name))
        return self.snapshot(key.name)

    def load(self, name: str) -> Template | None:
        """Return the record of a template, or None when it is missing or makes no sense."""
        try:
            with open(os.path.join(self.root, name, _RECORD)) as file:
                return Template(**json.load(file))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def templates(self) -> Iterator[Template]:
        """Yield every template, by name."""
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.root)):
                template = self.load(name)
                if template and template.name == name:
                    yield template

    def remove(self, name: str) -> None:
        """Remove a template; machines that were restored from it go on."""
        directory = os.path.join(self.root, name)
        gone = f"{directory}.removed.{os.getpid()}"
        with suppress(FileNotFoundError):
            os.rename(directory, gone)
            shutil.rmtree(gone)

    def blame(self, name: str, made_at: float, *, surely: bool) -> bool:
        """Note that a clone failed of the template that was made at `made_at`; remove it in the end.

        `surely` says that nothing else can be to blame.  Tells whether it was removed.
        """
        template = self.load(name)
        if template is None or template.made_at != made_at:
            return False  # another one has taken its place
        path = os.path.join(self.root, name, _FAILURES)
        with open(path, "ab+") as file:
            file.write(b".")
            failures = file.tell()
        if not surely and failures < _MOST_FAILURES:
            return False
        self.remove(name)
        return True

    def absolve(self, name: str) -> None:
        """Forget the failures of a template: a clone of it has answered."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.root, name, _FAILURES))

    def remove_stale(self) -> Iterator[tuple[str, str]]:
        """Remove what will hardly be used again; yield each name with the reason.

        That is templates whose files (QEMU, kernel, initrd) are no more what they were, and the
        ones used least recently beyond a handful: each is some 100 MiB.
        """
        kept = []
        for template in self.templates():
            if _is_stale(template):
                self.remove(template.name)
                yield template.name, "its QEMU, kernel or initrd has changed"
            else:
                kept.append(template.name)
        kept.sort(key=lambda name: os.stat(os.path.join(self.root, name)).st_mtime)
        for name in kept[: -(_MOST - 1)]:
            self.remove(name)
            yield name, f"it is the one used least recently of more than {_MOST - 1}"

    @staticmethod
    def _write(template: Template, directory: str) -> None:
        path = os.path.join(directory, _RECORD)
        with open(f"{path}.new", "w") as file:
            json.dump(asdict(template), file)
        os.rename(f"{path}.new", path)


def _is_stale(template: Template) -> bool:
    files = template.inputs.get("files")
    if not isinstance(files, dict):
        return True
    try:
        return any(identity(path) != then for path, then in files.items())
    except FileNotFoundError:
        return True


def _now(snapshot: Snapshot) -> list[object]:
    """Return this boot, and what the files of a template are at the moment.

    Whoever writes to them can put the time of the change back, but not that of the inode's.
    """
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    try:
        return [boot, identity(snapshot.memory), identity(snapshot.state)]
    except FileNotFoundError:
        return []


def _damage(template: Template, snapshot: Snapshot) -> str:
    """Say what is wrong with the files of a template; empty when nothing is."""
    try:
        if _sha256(snapshot.state) != template.state_digest:
            return "the state of its devices is not what was saved"
        if memory_file.digest(snapshot.memory) != template.memory_digest:
            return "its memory is not what was saved"
    except OSError as error:
        return f"{error.filename or 'a file of it'}: {error.strerror}"
    return ""


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
