"""A control group of the host's, in whatever hierarchies this machine has."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kata.resources.cgroup import OVERHEAD, Hierarchy, HostCgroup, hierarchies, parent_of

pytestmark = pytest.mark.linux

_SOURCE = str(Path(__file__).parents[3] / "src")


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("/kubepods/burstable/pod1/c1", "/kubepods/burstable/pod1"),
        ("/default/c1", "/default"),
        ("/c1", "/"),
        ("c1", ""),
        ("", ""),
        ("kubepods-burstable-pod1.slice:cri-containerd:c1",
         "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"),
        ("system.slice:runc:c1", "/system.slice"),
        ("-.slice:runc:c1", "/"),
    ],
)  # fmt: skip
def test_the_parent_is_the_pods_group(path: str, parent: str) -> None:
    assert parent_of(path) == parent


def test_a_path_cannot_leave_the_hierarchy() -> None:
    with pytest.raises(ValueError, match="leads out"):
        parent_of("/../../etc/x")


def test_both_versions_are_found(tmp_path: Path) -> None:
    membership, mounts = tmp_path / "cgroup", tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "2 0 0:2 / /c/systemd rw - cgroup cgroup rw,name=systemd\n"
        "3 0 0:3 / /c/unified rw - cgroup2 cgroup2 rw\n"
        "4 0 0:4 / / rw - ext4 /dev/vda rw\n"
    )
    membership.write_text("2:cpuacct,cpu:/a/b\n1:name=systemd:/\n0::/\n")
    cpu = frozenset({"cpu", "cpuacct"})
    assert hierarchies(str(mounts), str(membership)) == [
        Hierarchy("/c/cpu", "/c/cpu/a/b", cpu, unified=False)
    ]
    mounts.write_text("3 0 0:3 /up /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    membership.write_text("0::/up/own\n")
    assert hierarchies(str(mounts), str(membership)) == [
        Hierarchy("/sys/fs/cgroup", "/sys/fs/cgroup/own", frozenset(), unified=True)
    ]


_CODE = """
import os, subprocess, sys
from kata.resources.cgroup import Hierarchy, HostCgroup, hierarchies
recorded, struck = [], []
trees = hierarchies()
if len(sys.argv) > 3:
    own = open("/proc/self/cgroup").read().rpartition("0::")[2].strip()
    trees = [Hierarchy(sys.argv[3], sys.argv[3] + own.rstrip("/"), frozenset(), unified=True)]
group = HostCgroup(sys.argv[1], sys.argv[2], trees)
before = open("/proc/self/cgroup").read()
group.create(recorded.append)
group.enter()
child = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True).stdout
inside = [tree.mount_point for tree in group.trees]
print(child.count(sys.argv[2]) == len(inside) > 0, open("/proc/self/cgroup").read() == child)
daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True)  # such as a hook leaves
group.leave()
group.remove(struck.append)
print(daemon.poll(), sys.argv[2] in open(f"/proc/{daemon.pid}/cgroup").read())
for tree in group.trees:
    with open(os.path.join(tree.mount_point, "cgroup.procs"), "w") as file:
        file.write(str(daemon.pid))
daemon.kill()
daemon.wait()
for path in {os.path.dirname(path) for path in group.paths} if sys.argv[1] else ():
    os.path.exists(path) and os.removedirs(path)
group.remove(struck.append)
print(open("/proc/self/cgroup").read() == before, sorted(struck) == sorted(set(recorded)))
print([path for path in group.paths if os.path.exists(path)])
"""


def _unified() -> str:
    """Return where cgroup v2 is mounted; beside v1 too, where it has no controllers."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return line.split()[1]
    pytest.skip("this machine has no cgroup v2")


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("parent", ["", "kata-test/deeper"])
def test_entered_left_and_removed(parent: str, unified: bool) -> None:
    trees = _writable()
    name = f"kata_test{os.getpid()}"
    run = subprocess.run(
        [sys.executable, "-c", _CODE, parent, name, *([_unified()] if unified else [])],
        env={"PYTHONPATH": _SOURCE, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["True True", "None False", "True True", "[]"]
    group = HostCgroup(parent, name, trees)
    assert not any(os.path.exists(os.path.dirname(path)) for path in group.paths if parent)


def _writable() -> list[Hierarchy]:
    trees = hierarchies()
    if not trees or not all(os.access(tree.own, os.W_OK) for tree in trees):
        pytest.skip("the control groups of this machine cannot be written")
    return trees


def test_the_last_to_leave_takes_the_shared_group_along() -> None:
    trees, record, above = _writable(), list[str](), f"kata-test{os.getpid()}/{OVERHEAD}"
    first, second = (HostCgroup(above, name, trees) for name in ("first", "second"))
    first.create(record.append)
    second.create(record.append)
    first.remove(record.remove)
    assert all(os.path.isdir(path) for path in second.paths)
    second.remove(record.remove)
    assert not record
    assert not any(os.path.exists(os.path.dirname(path)) for path in second.paths)
    for path in second.paths:  # it was the first one's, and in use when that left
        os.rmdir(os.path.dirname(os.path.dirname(path)))


async def test_what_takes_its_time_to_leave_a_group_is_waited_for() -> None:
    """A killed process does until its memory is given back; a group below stands for it here."""
    group, struck = HostCgroup("", f"kata_test{os.getpid()}", _writable()), list[str]()
    group.create(lambda _: None)
    below = [os.path.join(path, "below") for path in group.paths]
    for path in below:
        os.mkdir(path)
    with pytest.raises(OSError, match="busy"):
        await group.remove_in_time(struck.append, 0.05)
    removing = asyncio.create_task(group.remove_in_time(struck.append, 60))
    await asyncio.sleep(0.05)
    assert not removing.done()
    for path in below:
        os.rmdir(path)
    await removing
    assert sorted(struck) == sorted(group.paths)
    assert not any(map(os.path.exists, group.paths))


def test_two_sandboxes_that_come_and_go_do_not_hinder_each_other() -> None:
    """Each removes the group above both, again and again, while the other goes below it."""
    _writable()
    code = """
import sys
from kata.resources.cgroup import HostCgroup, hierarchies
for _ in range(200):
    group = HostCgroup(sys.argv[1], sys.argv[2], hierarchies()[:1])
    group.create(lambda path: None)
    group.remove(lambda path: None)
"""
    above = f"kata-test{os.getpid()}/{OVERHEAD}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, above, name],
            env={"PYTHONPATH": _SOURCE},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("first", "second")
    ]
    assert [(each.communicate(timeout=60)[1], each.returncode) for each in both] == [("", 0)] * 2
    path = os.path.join(hierarchies()[0].own, above)
    assert not os.path.exists(path)
    os.path.exists(os.path.dirname(path)) and os.rmdir(os.path.dirname(path))
