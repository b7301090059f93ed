"""The command lines that containerd writes, from 1.6 to 2.3."""

import pytest

from kata.shim.arguments import ArgumentError, Arguments, parse

pytestmark = pytest.mark.unit

_START = "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id c1"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            f"{_START} start",
            Arguments("k8s.io", "/run/c.sock", "/usr/bin/containerd", "c1", action="start"),
        ),
        (
            f"{_START} -debug start",
            Arguments(
                "k8s.io", "/run/c.sock", "/usr/bin/containerd", "c1", debug=True, action="start"
            ),
        ),
        (
            f"{_START} -bundle /run/b delete",
            Arguments(
                "k8s.io", "/run/c.sock", "/usr/bin/containerd", "c1", "/run/b", action="delete"
            ),
        ),
        ("--id=c1 -debug=false start", Arguments(id="c1", action="start")),
        ("-info", Arguments(info=True)),
        ("-v", Arguments(version=True)),
        ("--version", Arguments(version=True)),
        ("-h", Arguments(help=True)),
        ("", Arguments()),
    ],
)
def test_parses(words: str, expected: Arguments) -> None:
    assert parse(words.split()) == expected


@pytest.mark.parametrize(
    ("words", "names"),
    [("-id", "-id needs"), ("start delete", "two actions"), ("-colour red", "-colour")],
)
def test_refuses(words: str, names: str) -> None:
    with pytest.raises(ArgumentError, match=names):
        parse(words.split())
