"""A private apt: the host's distribution seen through a state of our own.

apt itself fetches the indexes and verifies their signatures; the host's apt state, its installed
packages and its hooks are neither read nor touched. Proxies and credentials of the host's apt
configuration stay in force.
"""

import io
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kata.image.digests import sha256_of_file
from kata.image.errors import ImageError, failed, run
from kata.image.sources import (
    distribution_keyring,
    host_distribution,
    host_sources,
    stanzas,
)

# How old the indexes may get: a distribution publishes a few times a day, a build runs often.
_UPDATE_SECONDS = 24 * 3600
_OFFLINE_HINT = "check the network and the host's apt sources (`apt-get update`)"

# Indexes that desktops make apt fetch, several times the size of the one that is needed.
_UNUSED = ("DEP-11", "DEP-11-icons", "DEP-11-icons-small", "DEP-11-icons-large", "Contents-deb")

Fraction = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package as the signed index describes it: size in bytes, SHA256 in hex."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    depends: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The name that apt stores the package's file under."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


class PrivateApt:
    """apt with its state, cache and sources below one directory, made when missing.

    Raises `ImageError` if the host's distribution or its sources cannot be used.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.release = host_distribution()
        self._environment = {
            **os.environ,
            "APT_CONFIG": os.path.join(directory, "etc", "first.conf"),
            "LC_ALL": "C.UTF-8",
        }
        self._write_configuration()

    @property
    def updated(self) -> float:
        """When the indexes were last fetched, in seconds since 1970; 0 if never."""
        try:
            return os.stat(self._stamp).st_mtime
        except FileNotFoundError:
            return 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the indexes are less than a day old and the sources are still the same."""
        try:
            with open(self._stamp, encoding="utf-8") as stream:
                same = stream.read() == self._sources
        except FileNotFoundError:
            return False
        return same and time.time() - self.updated < _UPDATE_SECONDS

    def update(self, progress: Fraction) -> None:
        """Fetch the package indexes and verify their signatures.

        Raises `ImageError` if one cannot be fetched or verified; older indexes stay usable.
        """
        # Without this option apt only warns about an index that it could not fetch.
        option = ["-o", "APT::Update::Error-Mode=any"]
        self._apt_get([*option, "update"], progress)
        with open(self._stamp, "w", encoding="utf-8") as stream:
            stream.write(self._sources)

    def describe(self, names: Iterable[str]) -> list[Package]:
        """Describe the newest version of each package; unknown names are left out.

        Raises `ImageError` if apt has no indexes yet.
        """
        wanted = list(names)
        output = self._run(["apt-cache", "show", "--no-all-versions", *wanted], allow=100)
        found: dict[str, Package] = {}
        for stanza in stanzas(output.decode()):
            try:
                package = Package(
                    name=stanza["package"],
                    version=stanza["version"],
                    architecture=stanza["architecture"],
                    size=int(stanza["size"]),
                    sha256=stanza["sha256"],
                    depends=_first_alternatives(stanza),
                )
            except KeyError as error:
                raise ImageError(
                    f"apt's index describes {stanza.get('package', 'a package')} without {error}",
                    _OFFLINE_HINT,
                ) from error
            found.setdefault(package.name, package)
        return [found[name] for name in wanted if name in found]

    def download(self, packages: Sequence[Package], into: str, progress: Fraction) -> None:
        """Fetch the packages' files that `into` lacks, and check each against its SHA256.

        Raises `ImageError` if one cannot be fetched or differs; a file that differs is removed.
        """
        os.makedirs(into, exist_ok=True)
        missing = [
            package
            for package in packages
            if not os.path.exists(os.path.join(into, package.file_name))
        ]
        if missing:
            names = [f"{package.name}={package.version}" for package in missing]
            self._apt_get(["download", *names], progress, cwd=into)
        for package in packages:
            path = os.path.join(into, package.file_name)
            if sha256_of_file(path) != package.sha256:
                os.unlink(path)
                raise ImageError(
                    f"{package.file_name} differs from what the distribution signed",
                    "it was removed; build again",
                )

    @property
    def _stamp(self) -> str:
        return os.path.join(self._directory, "updated")

    def _write_configuration(self) -> None:
        own = os.path.abspath(self._directory)
        for name in ("etc/parts", "lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(own, name), exist_ok=True)
        self._sources = "\n".join(
            source.deb822(distribution_keyring(self.release, source))
            for source in host_sources(self.release)
        )
        # apt reads APT_CONFIG's file first, then the host's apt.conf.d, then Dir::Etc::main:
        # ours, so that it can take the host's hooks away again.
        files = {
            "etc/first.conf": f'Dir::Etc::main "{own}/etc/last.conf";\n',
            "etc/last.conf": _configuration(own),
            "etc/parts/distribution.sources": self._sources,
            "status": "",
        }
        for name, text in files.items():
            with open(os.path.join(own, name), "w", encoding="utf-8") as stream:
                stream.write(text)

    def _run(self, argv: Sequence[str], allow: int) -> bytes:
        done = subprocess.run(argv, env=self._environment, capture_output=True, check=False)
        if done.returncode not in (0, allow):
            raise failed(argv, done.returncode, done.stderr, _OFFLINE_HINT)
        return done.stdout

    def _apt_get(self, arguments: Sequence[str], progress: Fraction, cwd: str = "/") -> None:
        """Run apt-get and pass on its own estimate of how far it is.

        The estimate is the end's only when the command has ended, hence never 1 before.
        """
        reader, writer = os.pipe()
        with os.fdopen(reader, encoding="utf-8", errors="replace") as status:
            argv = ["apt-get", "-q", "-y", "-o", f"APT::Status-Fd={writer}", *arguments]
            watcher = threading.Thread(target=_watch, args=(status, progress))
            watcher.start()
            try:
                done = subprocess.run(
                    argv,
                    cwd=cwd,
                    env=self._environment,
                    pass_fds=[writer],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                )
            except FileNotFoundError as error:
                raise ImageError(
                    "the command 'apt-get' is not installed", "build on Debian or Ubuntu"
                ) from error
            finally:
                os.close(writer)
                watcher.join()
        if done.returncode != 0:
            raise failed(argv, done.returncode, done.stderr, _OFFLINE_HINT)


def unpack(deb: str, into: str) -> None:
    """Unpack a package's files without running its scripts.

    Raises `ImageError` if the file is no package.
    """
    run(["dpkg-deb", "-x", deb, into], hint="remove the file and build again")


def contents(deb: str) -> list[str]:
    """List the files and links that a package brings, relative to the root, /usr merged.

    Raises `ImageError` if the file is no package.
    """
    archive = run(["dpkg-deb", "--fsys-tarfile", deb], hint="remove the file and build again")
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        names = [member.name.removeprefix("./") for member in members if not member.isdir()]
    merged = ("bin/", "lib/", "lib64/", "sbin/")
    return [f"usr/{name}" if name.startswith(merged) else name for name in names]


def _configuration(own: str) -> str:
    settings = {
        "Dir::State::lists": f"{own}/lists/",
        "Dir::State::status": f"{own}/status",
        "Dir::State::extended_states": f"{own}/extended_states",
        "Dir::Cache": f"{own}/cache/",
        "Dir::Cache::pkgcache": "pkgcache.bin",
        "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": f"{own}/etc/parts",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Acquire::Languages": "none",
        **{f"Acquire::IndexTargets::deb::{name}::DefaultEnabled": "false" for name in _UNUSED},
        "Debug::NoLocking": "true",
        # The sandbox user could not write into a cache below a home directory.
        "APT::Sandbox::User": "root",
    }
    cleared = ("APT::Update", "DPkg", "Acquire::Languages")
    lines = ['#include "/etc/apt/apt.conf";'] if os.path.exists("/etc/apt/apt.conf") else []
    lines += [f"#clear {name};" for name in cleared]
    lines += [f'{name} "{value}";' for name, value in settings.items()]
    return "".join(line + "\n" for line in lines)


def _first_alternatives(stanza: dict[str, str]) -> tuple[str, ...]:
    """Name what a package depends on, without versions, qualifiers and second choices."""
    clauses = f"{stanza.get('pre-depends', '')},{stanza.get('depends', '')}".split(",")
    words = [clause.split("|")[0].split() for clause in clauses]
    return tuple(word[0].split(":")[0].split("(")[0] for word in words if word)


def _watch(status: Iterable[str], progress: Fraction) -> None:
    """Read `dlstatus:<index>:<percent>:<text>` lines until apt closes its end."""
    for line in status:
        kind, _, rest = line.partition(":")
        percent = rest.split(":")[1:2]
        if kind == "dlstatus" and percent:
            progress(min(float(percent[0]) / 100, 0.99))
