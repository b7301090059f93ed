"""The proof itself: what is left behind is found, listed and removed."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.command import run
from lab.containerd import PrivateContainerd
from lab.leftovers import TOKEN_VARIABLE, LeftoverError
from lab.release import find_release

pytestmark = pytest.mark.containerd

FREEZER = Path("/sys/fs/cgroup/freezer")
CGROUPS = FREEZER if FREEZER.is_dir() else Path("/sys/fs/cgroup")


@pytest.fixture
def daemon() -> Iterator[PrivateContainerd]:
    """A daemon of the test's own, since the test stops it."""
    with PrivateContainerd(find_release("1.6")) as daemon:
        yield daemon


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """Where a leak registers what ends it if the proof should not."""
    with ExitStack() as stack:
        yield stack


def leak_process(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    environment = {TOKEN_VARIABLE: daemon.namespace}
    process = subprocess.Popen(["sleep", "1000"], env={**daemon.environment, **environment})
    cleanup.callback(process.wait)
    cleanup.callback(process.kill)
    return f"process: {process.pid} sleep 1000"


def leak_mount(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    target = daemon.address.parent / "mounted"
    target.mkdir()
    run(["mount", "-t", "tmpfs", "lab", target])
    cleanup.callback(run, ["umount", "-l", target], check=False)
    return str(target)


def leak_cgroup(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    path = CGROUPS / daemon.namespace / daemon.new_container_id("cgroup")
    path.mkdir(parents=True)
    return f"cgroup: {path}"


def leak_file(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    path = Path("/run/kata-containers", daemon.new_container_id("file"))
    path.mkdir(parents=True)
    return f"file: {path}"


def leak_socket(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    path = daemon.shim_socket(daemon.new_container_id("socket"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return f"file: {path}"


@pytest.mark.parametrize(
    "leak",
    [leak_process, leak_mount, leak_cgroup, leak_file, leak_socket],
    ids=lambda one: one.__name__,
)
def test_a_leak_is_listed_and_removed(
    daemon: PrivateContainerd,
    cleanup: ExitStack,
    leak: Callable[[PrivateContainerd, ExitStack], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lab.containerd.CLEAN_TIMEOUT_S", 0.0)
    assert daemon.census() == []
    expected = leak(daemon, cleanup)
    with pytest.raises(LeftoverError) as raised:
        daemon.stop()
    assert expected in str(raised.value)
    assert len(raised.value.found) == 1
    assert daemon.census() == []
