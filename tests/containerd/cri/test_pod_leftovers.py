"""The proof itself, for what pods can leave: it is found, listed and removed."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from lab import pod_cgroup
from lab.command import run
from lab.containerd import PrivateContainerd
from lab.leftovers import LeftoverError
from lab.pod_network import PodNetwork
from lab.release import find_release

pytestmark = pytest.mark.containerd


@pytest.fixture
def daemon() -> Iterator[PrivateContainerd]:
    """A daemon of the test's own, since the test stops it."""
    with PrivateContainerd(find_release("1.6"), cri=True) as daemon:
        yield daemon


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """Where a leak registers what ends it if the proof should not."""
    with ExitStack() as stack:
        yield stack


def network_of(daemon: PrivateContainerd) -> PodNetwork:
    assert daemon.network is not None
    return daemon.network


def leak_port(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    name = f"v{daemon.namespace}"
    run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"p{daemon.namespace}"])
    cleanup.callback(run, ["ip", "link", "delete", name], check=False)
    run(["ip", "link", "set", name, "master", network_of(daemon).bridge])
    return f"port of the bridge: {name}"


def leak_address(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    path = network_of(daemon).addresses / "list" / "198.18.0.7"
    path.parent.mkdir(parents=True)
    path.touch()
    return f"address in use: {path}"


def leak_rule(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    words = ["-p", "udp", "-m", "comment", "--comment", daemon.namespace, "-j", "ACCEPT"]
    run(["iptables", "-t", "nat", "-A", "INPUT", *words])
    cleanup.callback(run, ["iptables", "-t", "nat", "-D", "INPUT", *words], check=False)
    return f"iptables rule: -A INPUT -p udp -m comment --comment {daemon.namespace}"


def leak_namespace(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    path = daemon.address.parent / "netns"
    path.touch()
    with subprocess.Popen(["unshare", "--net", "sleep", "100"]) as holder:
        run(["mount", "--bind", f"/proc/{holder.pid}/ns/net", path])
        holder.kill()
    cleanup.callback(run, ["umount", path], check=False)
    return str(path)


def leak_cgroup(daemon: PrivateContainerd, cleanup: ExitStack) -> str:
    path = pod_cgroup.folders(f"/{daemon.namespace}/pod1")[0]
    path.mkdir(parents=True)
    return f"cgroup: {path}"


@pytest.mark.parametrize(
    "leak",
    [leak_port, leak_address, leak_rule, leak_namespace, leak_cgroup],
    ids=lambda one: one.__name__,
)
def test_what_a_pod_leaks_is_listed_and_removed(
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
