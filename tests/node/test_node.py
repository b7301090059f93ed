"""The project on a machine such as its users have: systemd, cgroup v2, KVM and vhost-vsock.

The node's own processor is emulated, so everything takes ten times as long as it does here, and a
chosen part of the tests has to do. They are the same files, run by the node's own pytest.
"""

import os
from collections.abc import Iterator

import pytest
from lab.node import MEMORY_MIB, Node, node_image

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(
        not os.environ.get("KATA_TEST_NODE"),
        reason="a node takes half an hour: set KATA_TEST_NODE=1",
    ),
]

_PYTEST = "PATH=$PWD/build/tools/usr/sbin:$PWD/build/tools/usr/bin:$PATH build/venv/bin/python -m pytest -q"
_HOUR_S = 3600


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with open("/proc/meminfo") as file:
        sizes = {name: int(size) for name, size, *_ in map(str.split, file)}
    if sizes["MemAvailable:"] < MEMORY_MIB * 1024:
        pytest.skip(f"a node needs {MEMORY_MIB} MiB of memory that are not available")
    with Node(node_image()) as node:
        yield node


def test_it_has_what_this_is_about(node: Node) -> None:
    assert node.run("stat -fc %T /sys/fs/cgroup", timeout_s=60).stdout == "cgroup2fs\n"
    assert node.run("cat /proc/1/comm", timeout_s=60).stdout == "systemd\n"
    checked = node.run("build/opt/kata/bin/kata-ctl check", timeout_s=300)
    for line in ("/dev/kvm makes virtual machines", "/dev/vhost-vsock gives context ids"):
        assert line in checked.stdout, checked


def test_the_main_job(node: Node) -> None:
    ran = node.run("make run", timeout_s=_HOUR_S)
    assert "hello from a container" in ran.stdout, ran.stdout + ran.stderr
    assert ran.code == 0


@pytest.mark.parametrize(
    "chosen",
    [
        "tests/linux/host",
        "tests/vm/test_host_features.py tests/vm/test_lifecycle.py",
        "tests/containerd/test_run.py tests/containerd/test_tasks.py -k '1.6 and kata'",
        "tests/containerd/cri/test_pods.py -k '1.6 and kata'",
        "tests/containerd/cri/test_pod_resources.py -k '1.6 and kata'",
        "tests/containerd/cri/test_pod_stats.py -k '1.6 and kata'",
        "tests/containerd/cri/test_pods.py -k '2.x and sandboxer'",
    ],
)
def test_the_projects_tests(node: Node, chosen: str) -> None:
    ran = node.run(f"{_PYTEST} {chosen}", timeout_s=_HOUR_S)
    assert ran.code == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
