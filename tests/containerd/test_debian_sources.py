"""Reading the machine's apt sources, in both of apt's formats."""

import pytest
from lab.command import LabError
from lab.debian import Source, main_archive, parse_deb822, parse_one_line

pytestmark = pytest.mark.containerd

MIRROR = "http://mirror.example/debian"
KEYRING = "/usr/share/keyrings/archive.gpg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"deb {MIRROR} bookworm main\n", [Source((MIRROR,), ("bookworm",), ("main",))]),
        (
            f"deb [arch=amd64 signed-by={KEYRING}] {MIRROR} sid main contrib # mine\n",
            [Source((MIRROR,), ("sid",), ("main", "contrib"), KEYRING)],
        ),
        (f"# deb {MIRROR} bookworm main\ndeb-src {MIRROR} bookworm main\n", []),
    ],
)
def test_one_line_format(text: str, expected: list[Source]) -> None:
    assert list(parse_one_line(text)) == expected


DEB822 = f"""\
# a comment
Types: deb deb-src
URIs: {MIRROR}
Suites: bookworm bookworm-updates
# another
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: {MIRROR}
Suites: sid
Components: main

Enabled: no
Types: deb
URIs: {MIRROR}
Suites: sid
Components: main
"""


def test_deb822_format_and_back() -> None:
    (source,) = parse_deb822(DEB822)
    assert source.suites == ("bookworm", "bookworm-updates")
    assert source.signed_by.endswith("-----END PGP PUBLIC KEY BLOCK-----")
    assert list(parse_deb822(source.as_deb822())) == [source]


def test_the_main_archive_is_that_of_the_machines_suite() -> None:
    other = Source((MIRROR + "-security",), ("bookworm-security",), ("main",))
    own = Source((MIRROR,), ("bookworm", "bookworm-updates"), ("main", "contrib"))
    assert main_archive([other, own], "bookworm") is own
    assert own.of_suite("sid") == Source((MIRROR,), ("sid",), ("main",))
    with pytest.raises(LabError, match="add the mirror's main archive"):
        main_archive([other], "bookworm")
