"""The distribution's own package sources, out of all that the host's apt is set up with.

Reads both formats of sources.list(5). Third parties' sources are left out: the guest is made of
what the distribution signs, and of nothing else.
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass

from kata.image.errors import ImageError

# Keyrings that the distributions install for their own archives.
_KEYRINGS = ("debian-archive-", "ubuntu-archive-")
_COMPONENT = "main"
_POCKETS = ("", "-updates", "-security")


@dataclass(frozen=True, slots=True)
class Distribution:
    """A release of Debian or Ubuntu, as os-release(5) names it."""

    id: str
    codename: str

    @property
    def suites(self) -> frozenset[str]:
        """The suites that hold the release and its fixes."""
        return frozenset(self.codename + pocket for pocket in _POCKETS)


@dataclass(frozen=True, slots=True)
class Source:
    """One archive of the distribution: where, which suites, and the keyring that signs it."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    keyring: str | None

    def deb822(self, keyring: str) -> str:
        """Render as a deb822 stanza whose signatures only the given keyring can make valid."""
        return (
            f"Types: deb\nURIs: {' '.join(self.uris)}\nSuites: {' '.join(self.suites)}\n"
            f"Components: {_COMPONENT}\nSigned-By: {keyring}\n"
        )


def host_distribution(path: str = "/etc/os-release") -> Distribution:
    """Read which distribution this host runs.

    Raises `ImageError` if it is neither Debian nor Ubuntu, or a rolling suite without a codename.
    """
    values: dict[str, str] = {}
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            key, _, value = line.strip().partition("=")
            values[key] = value.strip("'\"")
    release = Distribution(values.get("ID", ""), values.get("VERSION_CODENAME", ""))
    if release.id not in ("debian", "ubuntu") or not release.codename:
        raise ImageError(
            f"no guest can be made from the packages of {values.get('PRETTY_NAME', 'this system')}",
            "build the image on a release of Debian or Ubuntu and copy the three files here",
        )
    return release


def host_sources(release: Distribution, etc: str = "/etc/apt") -> list[Source]:
    """Read the distribution's own sources from apt's files below `etc`.

    Raises `ImageError` if none names the release.
    """
    found = [*_one_line_sources(etc), *_deb822_sources(etc)]
    kept = []
    for source in found:
        suites = tuple(suite for suite in source.suites if suite in release.suites)
        if suites and _is_distributions(source.keyring):
            kept.append(Source(source.uris, suites, source.keyring))
    if not any(release.codename in source.suites for source in kept):
        raise ImageError(
            f"apt's sources below {etc} have no entry for {release.codename} {_COMPONENT}",
            "add the distribution's own archive to them",
        )
    return kept


def distribution_keyring(release: Distribution, source: Source) -> str:
    """Return the keyring that verifies a source: its own, or the distribution's installed one.

    Raises `ImageError` if it is not there.
    """
    candidates = [source.keyring] if source.keyring else []
    candidates += [
        f"/usr/share/keyrings/{release.id}-archive-keyring.{ending}" for ending in ("gpg", "pgp")
    ]
    for path in candidates:
        if os.path.exists(path):
            return path
    raise ImageError(
        f"no keyring of {release.id} is installed", f"install {release.id}-archive-keyring"
    )


def _is_distributions(keyring: str | None) -> bool:
    return keyring is None or os.path.basename(keyring).startswith(_KEYRINGS)


def _one_line_sources(etc: str) -> Iterator[Source]:
    for path in (f"{etc}/sources.list", *sorted(glob.glob(f"{etc}/sources.list.d/*.list"))):
        for line in _lines(path):
            entry = line.split("#")[0].strip()
            if not entry.startswith(("deb ", "deb\t")):
                continue
            keyring = None
            rest = entry[4:].strip()
            if rest.startswith("["):
                options, _, rest = rest[1:].partition("]")
                for option in options.split():
                    name, _, value = option.partition("=")
                    keyring = value if name.lower() == "signed-by" else keyring
            uri, suite, *components = rest.split() + [""] * max(0, 2 - len(rest.split()))
            if _COMPONENT in components:
                yield Source((uri,), (suite,), keyring)


def _deb822_sources(etc: str) -> Iterator[Source]:
    for path in sorted(glob.glob(f"{etc}/sources.list.d/*.sources")):
        for stanza in stanzas("".join(_lines(path))):
            enabled = stanza.get("enabled", "yes").lower() not in ("no", "false", "0")
            if not enabled or "deb" not in stanza.get("types", "").split():
                continue
            if _COMPONENT not in stanza.get("components", "").split():
                continue
            uris, suites = stanza.get("uris", "").split(), stanza.get("suites", "").split()
            yield Source(tuple(uris), tuple(suites), stanza.get("signed-by"))


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Parse deb822 text (deb-control(5)): one mapping of lower-case names for each stanza."""
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readlines()
    except FileNotFoundError:
        return []
