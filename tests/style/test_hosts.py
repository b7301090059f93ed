"""No committed file names a package registry, a mirror, or the place of this checkout.

The names to look for are those that this machine's apt and pip are set up to use, read at run time.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tree import ROOT, files, relative

pytestmark = pytest.mark.style

APT = Path("/etc/apt")


def hosts_in(text: str) -> set[str]:
    """Return the host of every URL in the text, without a port and without local hosts."""
    found = set(re.findall(r"https?://(?:[^/\s@]+@)?([A-Za-z0-9.-]+)", text))
    return {host.lower().rstrip(".") for host in found if "." in host} - {"127.0.0.1"}


@cache
def registry_hosts() -> frozenset[str]:
    """Return the hosts that apt and pip of this machine fetch packages from."""
    sources = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]
    text = "".join(path.read_text() for path in sources if path.is_file())
    # The help text prints the index that pip uses unless it is told otherwise.
    for arguments in (("config", "list"), ("download", "--help")):
        command = [sys.executable, "-m", "pip", "--no-color", *arguments]
        text += subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return frozenset(hosts_in(text))


def test_no_registry_host_is_committed() -> None:
    if not registry_hosts():
        pytest.skip("neither apt sources nor pip name a host on this machine")
    words = re.compile(
        b"|".join(re.escape(host.encode()) for host in registry_hosts()), re.IGNORECASE
    )
    found = {relative(path) for path in files() if words.search(path.read_bytes())}
    assert found == set()


def test_place_of_the_checkout_is_not_committed() -> None:
    place = f"{ROOT}/".encode()
    assert {relative(path) for path in files() if place in path.read_bytes()} == set()


def test_hosts_are_found_in_both_forms_of_apt_sources() -> None:
    one_line = "deb [signed-by=/k] http://Mirror.example.org/debian stable main"
    deb822 = "URIs: https://user:word@two.example.org:8080/debian\nSuites: stable"
    assert hosts_in(one_line) == {"mirror.example.org"}
    assert hosts_in(deb822) == {"two.example.org"}
    assert hosts_in("http://localhost:3141/ http://127.0.0.1/x") == set()
