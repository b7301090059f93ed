"""Which of the host's package sources are the distribution's own."""

from pathlib import Path

import pytest

from kata.image.errors import ImageError
from kata.image.sources import Distribution, Source, host_distribution, host_sources, stanzas

pytestmark = pytest.mark.unit

RELEASE = Distribution("debian", "bookworm")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

DEB822 = f"""\
# a comment
Types: deb deb-src
URIs: mirror:/one
Suites: bookworm bookworm-updates bookworm-backports
Components: main
 contrib
Signed-By: {KEYRING}

Types: deb
URIs: mirror:/vendor
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/vendor.gpg

Types: deb
URIs: mirror:/off
Suites: bookworm
Components: main
Enabled: no
"""


def write(etc: Path, name: str, text: str) -> None:
    path = etc / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_deb822_third_parties_and_disabled_stanzas_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "sources.list.d/debian.sources", DEB822)
    write(tmp_path, "sources.list.d/old.sources.disabled", DEB822)
    found = host_sources(RELEASE, str(tmp_path))
    assert found == [Source(("mirror:/one",), ("bookworm", "bookworm-updates"), KEYRING)]
    assert found[0].deb822("/ring") == (
        "Types: deb\nURIs: mirror:/one\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: /ring\n"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb mirror:/a bookworm main contrib", Source(("mirror:/a",), ("bookworm",), None)),
        ("deb\tmirror:/a  bookworm\tmain # why", Source(("mirror:/a",), ("bookworm",), None)),
        (
            f"deb [arch=amd64 signed-by={KEYRING}] mirror:/a bookworm main",
            Source(("mirror:/a",), ("bookworm",), KEYRING),
        ),
        ("deb [signed-by=/etc/apt/keyrings/x.gpg] mirror:/a bookworm main", None),
        ("deb-src mirror:/a bookworm main", None),
        ("# deb mirror:/a bookworm main", None),
        ("deb mirror:/a trixie main", None),
        ("deb mirror:/a bookworm stable", None),
        ("deb", None),
        ("deb mirror:/a", None),
    ],
)
def test_one_line_sources(tmp_path: Path, line: str, expected: Source | None) -> None:
    write(tmp_path, "sources.list", line + "\n")
    if expected is None:
        with pytest.raises(ImageError, match="no entry for bookworm main"):
            host_sources(RELEASE, str(tmp_path))
    else:
        assert host_sources(RELEASE, str(tmp_path)) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nVERSION_CODENAME=bookworm\nNAME="Debian GNU/Linux"\n', RELEASE),
        ('ID="ubuntu"\nVERSION_CODENAME=noble\n', Distribution("ubuntu", "noble")),
        ("ID=fedora\nVERSION_CODENAME=\nPRETTY_NAME='Fedora 42'\n", None),
        ("ID=debian\n", None),
    ],
)
def test_os_release(tmp_path: Path, text: str, expected: Distribution | None) -> None:
    path = tmp_path / "os-release"
    path.write_text(text)
    if expected is None:
        with pytest.raises(ImageError, match="Debian or Ubuntu"):
            host_distribution(str(path))
    else:
        assert host_distribution(str(path)) == expected


def test_stanzas_end_with_an_empty_line_or_the_text() -> None:
    text = "A: 1\nB: 2\n more\n\n\n# only a comment\n\nA: 3"
    assert list(stanzas(text)) == [{"a": "1", "b": "2\nmore"}, {"a": "3"}]
