"""Debian packages unpacked privately, from the machine's own mirror.

It reads the machine's apt sources, keeps one private apt state per suite in the cache, and unpacks
packages into folders of its own. apt itself checks every signature with the keyrings that the
sources name; nothing is ever installed into the system, and no package state of it is read.
Formats: sources.list(5), deb822(5), apt.conf(5); progress lines: apt's README.progress-reporting.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lab.command import LabError, run
from lab.freshness import Stamp, digest
from lab.paths import CACHE
from lab.progress import Step, step

_ETC_APT: Final = Path("/etc/apt")
_ONE_LINE: Final = re.compile(
    r"^deb\s+(?:\[(?P<options>[^]]*)]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One place that apt gets packages from."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def of_suite(self, suite: str) -> "Source":
        """Return the same place with another suite, main packages only."""
        return replace(self, suites=(suite,), components=("main",))

    def as_deb822(self) -> str:
        """Render the source as apt reads it from a `.sources` file."""
        fields = {
            "Types": "deb",
            "URIs": " ".join(self.uris),
            "Suites": " ".join(self.suites),
            "Components": " ".join(self.components),
            "Signed-By": self.signed_by,
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def parse_one_line(text: str) -> Iterator[Source]:
    """Yield the `deb` lines of a sources.list file."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match is None:
            continue
        options = dict(
            option.split("=", 1) for option in (match["options"] or "").split() if "=" in option
        )
        yield Source(
            (match["uri"],),
            (match["suite"],),
            tuple(match["components"].split()),
            options.get("signed-by", ""),
        )


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the enabled `deb` stanzas of a `.sources` file; an inline key block is kept as it is."""
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and name:
                fields[name] += f"\n{line}"
            elif ":" in line:
                head, value = line.split(":", 1)
                name = head.strip().lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in {"no", "false", "0"}
        if enabled and "deb" in fields.get("types", "").split():
            yield Source(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )


def host_sources(etc_apt: Path = _ETC_APT) -> list[Source]:
    """Return all sources this machine's apt uses, in apt's order."""
    sources: list[Source] = []
    parts = etc_apt / "sources.list.d"
    for path in [etc_apt / "sources.list", *sorted(parts.glob("*"))]:
        if not path.is_file():
            continue
        if path.suffix == ".list":
            sources += parse_one_line(path.read_text())
        elif path.suffix == ".sources":
            sources += parse_deb822(path.read_text())
    return sources


def host_codename(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the name of the machine's Debian suite, `sid` where the release has none yet."""
    match = re.search(r'^VERSION_CODENAME="?(\w+)"?$', os_release.read_text(), re.MULTILINE)
    return match[1] if match else "sid"


def main_archive(sources: Iterable[Source], codename: str) -> Source:
    """Return the source that holds the machine's own suite.

    Raises `LabError` when no source does.
    """
    aliases = {codename, "stable", "testing", "unstable"}
    for source in sources:
        if "main" in source.components and aliases & set(source.suites):
            return source
    raise LabError(
        f"no apt source for Debian {codename} in {_ETC_APT}; "
        "add the mirror's main archive to the machine's apt sources"
    )


class Suite:
    """One Debian suite with an apt state of its own in the cache."""

    def __init__(self, name: str, cache: Path = CACHE) -> None:
        self.name = name
        self._state = cache / "apt" / name
        self._unpacked = cache / "unpacked" / name
        self.source = main_archive(host_sources(), host_codename()).of_suite(name)

    def update(self) -> None:
        """Fetch the suite's package lists if there are none for these sources yet.

        Raises `CommandError` when a list cannot be fetched or its signature is wrong.
        """
        key = digest(self.source.as_deb822())
        stamp = Stamp("updated", self._state)
        if stamp.matches(key, [self._state / "lists"]):
            return
        for folder in ("lists/partial", "archives/partial", "sources"):
            (self._state / folder).mkdir(parents=True, exist_ok=True)
        (self._state / "sources" / "archive.sources").write_text(self.source.as_deb822())
        self._write_configuration()
        with step(f"package lists of Debian {self.name}") as running:
            self._apt(["update"], running)
        stamp.remember(key)

    def unpack(self, packages: Sequence[str]) -> Path:
        """Return a folder with the packages' files, downloading them only the first time.

        Dependencies are not followed. Raises `CommandError` when a package does not exist; the
        folder is then absent, not half filled.
        """
        folder = self._unpacked / "+".join(packages)
        if folder.is_dir():
            return folder
        self.update()
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "debs").mkdir(parents=True)
        try:
            with step(f"download and unpack {', '.join(packages)} ({self.name})") as running:
                self._apt(["download", *packages], running, cwd=scratch / "debs")
                for package in sorted((scratch / "debs").glob("*.deb")):
                    running.note(package.name)
                    run(["dpkg-deb", "-x", package, scratch / "tree"])
                (scratch / "tree").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def _write_configuration(self) -> None:
        # Read after the machine's own files (`-c`), so proxies and certificates stay in force.
        state = self._state
        (state / "apt.conf").write_text(
            f'Dir::State "{state}";\n'
            f'Dir::State::lists "{state}/lists";\n'
            'Dir::State::status "/dev/null";\n'
            f'Dir::Cache "{state}";\n'
            f'Dir::Cache::archives "{state}/archives";\n'
            'Dir::Etc::sourcelist "/dev/null";\n'
            f'Dir::Etc::sourceparts "{state}/sources";\n'
            'Dir::Etc::preferences "/dev/null";\n'
            'Dir::Etc::preferencesparts "/dev/null";\n'
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\n'
            "#clear Acquire::IndexTargets::deb::DEP-11;\n"
            "#clear Acquire::IndexTargets::deb::DEP-11-icons;\n"
            "#clear Acquire::IndexTargets::deb::DEP-11-icons-small;\n"
            "#clear Acquire::IndexTargets::deb::DEP-11-icons-large;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
        )

    def _apt(self, words: Sequence[str], running: Step, cwd: Path | None = None) -> None:
        reader, writer = os.pipe()
        argv = ["apt-get", "-q", "-c", str(self._state / "apt.conf")]
        argv += ["-o", f"APT::Status-Fd={writer}", "-o", "APT::Update::Error-Mode=any", *words]
        with (
            open(reader) as status,
            subprocess.Popen(
                argv,
                cwd=cwd,
                pass_fds=[writer],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as apt,
        ):
            os.close(writer)
            _follow(status, running)
            said, _ = apt.communicate()
        if apt.returncode != 0:
            raise LabError(f"exit code {apt.returncode}: {' '.join(argv)}\n{said.strip()}")


def _follow(status: Iterable[str], running: Step) -> None:
    """Show apt's status lines, `dlstatus:<count>:<percent>:<words>`, until apt closes the pipe."""
    for line in status:
        fields = line.rstrip("\n").split(":", 3)
        if len(fields) == 4 and fields[0] == "dlstatus":
            running.advance_to(float(fields[2]), fields[3])
