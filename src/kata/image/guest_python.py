"""The guest's Python: the modules that the agent imports, compiled by the guest's own interpreter.

Which modules is computed, never listed: the interpreter from the packages imports the agent and
says what it loaded. Then each file's shared libraries are looked up in the packages' tree.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kata.image import guest
from kata.image.cpio import Directory, File, Node, Symlink
from kata.image.digests import sha256_of_file, sha256_of_parts
from kata.image.elf import ElfFile
from kata.image.errors import ImageError, run
from kata.image.selection import OPENED_LATE

AGENT_HOME = "usr/lib/kata-agent"
# Optional modules that the guest does without: TLS and OpenSSL would double its size and its
# start, and nothing speaks TLS to an agent.
ABSENT = ("ssl", "_ssl", "_hashlib", "readline")
# What failing code needs in order to say so: traceback reads sources through these.
_ALWAYS = ("traceback", "linecache", "encodings.ascii", "encodings.latin_1")
_LIBRARY_FOLDERS = ("usr/lib", "usr/lib64")
_TRACE_HINT = "the agent must import with the guest's Python; see the message above"


@dataclass(frozen=True, slots=True)
class Program:
    """What the guest runs: `path`, the folder that holds its packages besides the standard library.

    `seeds` are the modules that the tracing starts from, `own` the top-level packages whose late
    imports are followed.
    """

    path: str
    seeds: tuple[str, ...]
    own: tuple[str, ...]


class GuestPython:
    """The interpreter below an unpacked tree of packages (`usr/bin/python3.*`).

    Raises `ImageError` if the tree has no interpreter that runs on this machine.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        binaries = sorted(
            name
            for name in os.listdir(os.path.join(self.root, "usr/bin"))
            if name.startswith("python3.") and name[8:].isdigit()
        )
        if not binaries:
            raise ImageError(f"{self.root} holds no Python", "remove the cache and build again")
        self.binary = f"usr/bin/{binaries[0]}"
        self.library = f"usr/lib/{binaries[0]}"
        interpreter = self._elf(self.binary).interpreter()
        if interpreter is None:
            raise ImageError("the guest's Python names no dynamic loader")
        self.interpreter = interpreter
        self.loader = resolve(self.root, interpreter)
        self._folders = tuple(
            os.path.relpath(folder, self.root)
            for top in _LIBRARY_FOLDERS
            for folder, _, names in sorted(os.walk(os.path.join(self.root, top)))
            if any(".so" in name for name in names) and "python" not in folder
        )

    def version(self) -> str:
        """Return the interpreter's version, as in "3.11.2"."""
        code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
        return self.run(["-c", code]).decode().strip()

    def run(self, arguments: Sequence[str], stdin: bytes = b"") -> bytes:
        """Run the interpreter on this host, with its own loader and libraries, and nothing else.

        Raises `ImageError` if it fails.
        """
        binary = os.path.join(self.root, self.binary)
        folders = ":".join(os.path.join(self.root, folder) for folder in self._folders)
        loader = [os.path.join(self.root, self.loader), "--argv0", binary, "--library-path"]
        return run(
            [*loader, folders, binary, "-s", "-S", "-B", *arguments],
            stdin=stdin,
            # A fixed hash seed: the order of sets must not reach the byte code.
            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            hint=_TRACE_HINT,
        )

    def modules(self, program: Program) -> dict[str, str]:
        """Return every module that a program needs: its name, and its file ("" if built in)."""
        order = {
            "path": [program.path],
            "seeds": [*program.seeds, *_ALWAYS],
            "own": program.own,
            "absent": ABSENT,
        }
        names = self.run([_script("trace_imports")], json.dumps(order).encode())
        arguments = [_script("loaded_modules"), ",".join(ABSENT), program.path]
        lines = self.run(arguments, names).decode().splitlines()
        found = dict(line.split("\t") for line in lines)
        # The interpreter finds its library by this file, although `os` itself is built in.
        found["os"] = os.path.join(self.root, self.library, "os.py")
        return found

    def libraries(self, paths: Iterable[str], names: Iterable[str] = ()) -> list[str]:
        """Return the shared libraries that ELF files need, and those need in turn, sorted.

        `names` are libraries that are opened at run time. Paths are absolute going in and relative to the tree coming out. Raises `ImageError` if
        the tree lacks one.
        """
        found = {name: self._library(name, AGENT_HOME) for name in names}
        opened = [os.path.join(self.root, path) for path in found.values()]
        waiting = [os.path.join(self.root, self.binary), *paths, *opened]
        while waiting:
            path = waiting.pop()
            with open(path, "rb") as stream:
                needed = ElfFile(stream.read(), path).needed()
            for name in needed:
                if name not in found and name != os.path.basename(self.interpreter):
                    found[name] = self._library(name, path)
                    waiting.append(os.path.join(self.root, found[name]))
        return sorted(found.values())

    def compile(
        self, sources: Mapping[str, str], store: str, progress: Callable[[float], None]
    ) -> dict[str, bytes]:
        """Return byte code by guest path (absolute, ending in .py), compiling what is new.

        `sources` maps guest paths to files. `store` keeps byte code by the digest of all that
        decides it. Raises `ImageError` for a source that does not compile.
        """
        os.makedirs(store, exist_ok=True)
        compiler = [
            sha256_of_file(path).encode()
            for path in (os.path.join(self.root, self.binary), _script("compile_modules"))
        ]
        targets = {
            name: os.path.join(
                store,
                sha256_of_parts([*compiler, name.encode(), sha256_of_file(path).encode()]),
            )
            for name, path in sources.items()
        }
        missing = [name for name in sorted(targets) if not os.path.exists(targets[name])]
        # In portions, so that whoever watches sees it move.
        for start in range(0, len(missing), 40):
            progress(start / len(missing))
            portion = missing[start : start + 40]
            orders = "".join(f"{sources[name]}\t{name}\t{targets[name]}\n" for name in portion)
            self.run([_script("compile_modules")], orders.encode())
        return {name: _read(path) for name, path in targets.items()}

    def nodes(self, extensions: Sequence[str]) -> dict[str, Node]:
        """Return the interpreter, its loader and the libraries of it and of extension modules."""
        found: dict[str, Node] = {
            path: File(_read(os.path.join(self.root, path)), 0o755)
            for path in (self.binary, *self.libraries(extensions, OPENED_LATE.values()))
        }
        found[self.loader] = File(_read(os.path.join(self.root, self.loader)), 0o755)
        # Programs name the loader by a link: /lib64/ld-linux-x86-64.so.2 on amd64.
        named = "usr" + self.interpreter
        if named != self.loader:
            found[named] = Symlink("/" + self.loader)
        found["usr/bin/python3"] = Symlink(os.path.basename(self.binary))
        # Without this folder the interpreter warns at every start.
        found[f"{self.library}/lib-dynload"] = Directory()
        return found

    def _library(self, name: str, wanted_by: str) -> str:
        for folder in self._folders:
            path = os.path.join(folder, name)
            if os.path.exists(os.path.join(self.root, path)):
                return path
        raise ImageError(
            f"{os.path.relpath(os.path.join(self.root, wanted_by), self.root)} needs {name}, which no package brings",
            "leave the module that imports it out of the agent",
        )

    def _elf(self, path: str) -> ElfFile:
        return ElfFile(_read(os.path.join(self.root, path)), path)


def guest_path(path: str, roots: Mapping[str, str]) -> str:
    """Translate a file's path into its place in the guest, without a leading slash.

    `roots` maps folders of this host to folders of the guest. Raises `ImageError` for a file
    below none of them.
    """
    for folder, place in roots.items():
        if path.startswith(folder + "/"):
            return os.path.join(place, path[len(folder) + 1 :])
    raise ImageError(f"the agent imported {path}, which is no part of the guest")


def resolve(root: str, path: str) -> str:
    """Follow the links of a path inside a tree, as a process whose root it is would.

    Returns a path relative to the root. Raises `ImageError` if links go round in circles.
    """
    done: list[str] = []
    waiting = path.split("/")
    for _ in range(256):
        if not waiting:
            return "/".join(done)
        part = waiting.pop(0)
        if part == "..":
            del done[-1:]
        elif part not in ("", "."):
            here = os.path.join(root, *done, part)
            if os.path.islink(here):
                target = os.readlink(here)
                done = [] if target.startswith("/") else done
                waiting = [*target.split("/"), *waiting]
            else:
                done.append(part)
    raise ImageError(f"the links of {path} go round in circles")


def _script(name: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(guest.__file__)), f"{name}.py")


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()
