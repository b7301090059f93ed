"""Fixtures: a network namespace of the test's own, and a socket in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest
from iproute import Namespace

from rtnetlink import Netlink


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace with loopback up, a pair v0 and v1 that is up, and a tap t0."""
    if os.geteuid():
        pytest.skip("missing: root, to make a network namespace")
    if shutil.which("ip") is None:
        pytest.skip("missing: ip, Debian package iproute2")
    name = f"kata-test-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    made = Namespace(name)
    try:
        for command in (
            "ip link set lo up",
            "ip link add v0 type veth peer name v1",
            "ip link set v0 up",
            "ip link set v1 up",
            "ip tuntap add t0 mode tap",
        ):
            made.run(command)
        # Which the kernel notices, and tells of, a moment later.
        deadline = time.monotonic() + 60
        while {made.show(f"ip link show dev {one}")[0]["operstate"] for one in ("v0", "v1")} != {
            "UP"
        }:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def netlink(namespace: Namespace) -> Iterator[Netlink]:
    """A socket in the namespace."""
    with Netlink(namespace.path) as opened:
        yield opened
