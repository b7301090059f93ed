"""Mounts on the real kernel, in a mount namespace of the test's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kata.host import libc, mounts
from kata.host.mounts import Mount, parse_options

pytestmark = pytest.mark.linux

_HERE = Path(__file__)


def in_namespace(body: str, *arguments: str) -> str:
    """Run Python code in a fresh process that has isolated its mounts; return its output."""
    code = f"import os, sys\nfrom kata.host import libc, mounts\nmounts.isolate()\n{body}"
    source = str(_HERE.parents[3] / "src")
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("options", "flags", "data"),
    [
        (("rbind", "ro"), libc.MS_BIND | libc.MS_REC | libc.MS_RDONLY, ""),
        (("nosuid", "suid", "nodev"), libc.MS_NODEV, ""),
        (("lowerdir=/a:/b", "upperdir=/c", "index=off"), 0, "lowerdir=/a:/b,upperdir=/c,index=off"),
        (("defaults",), 0, ""),
    ],
)
def test_options(options: tuple[str, ...], flags: int, data: str) -> None:
    assert parse_options(options) == (flags, data)


def test_bind_read_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    out = in_namespace(
        """
a, b = sys.argv[1:]
mounts.bind(a, b, read_only=True)
try:
    open(b + "/f", "w")
except OSError as error:
    print(error.strerror)
open(a + "/f", "w").close()
mounts.unmount(b); mounts.unmount(b)
print(os.listdir(b))
""",
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    )
    assert out.splitlines() == ["Read-only file system", "[]"]


@pytest.mark.parametrize(
    ("layers", "above"),
    [
        (40, ("long" * 30,)),
        (40, ("long" * 60,) * 6),  # as long as one path, each
        (300, ("long" * 60, r"a:colon, a comma and a \ too")),
    ],
    ids=["40 layers", "long paths", "300 layers, characters of the syntax"],
)
def test_deep_overlays_mount(tmp_path: Path, layers: int, above: tuple[str, ...]) -> None:
    out = in_namespace(
        r"""
place, count, *above = sys.argv[1:]
libc.mount("tmpfs", place, "tmpfs")
base = "/".join((place, *above))
def made(name):
    os.makedirs(f"{base}/{name}")
    escaped = f"{base}/{name}"
    for character in ("\\", ":", ","):
        escaped = escaped.replace(character, "\\" + character)
    return escaped
lower = "lowerdir=" + ":".join(made(f"{n}/fs") for n in range(int(count)))
for n in range(int(count)):
    open(f"{base}/{n}/fs/same", "w").write(str(n))
    open(f"{base}/{n}/fs/file{n}", "w").close()
options = (lower, "upperdir=" + made("upper"), "workdir=" + made("work"), "index=off")
assert len(lower) > 4096
target = place + "/target"
before, descriptors = os.getcwd(), os.listdir("/proc/self/fd")
mounts.mount_root([mounts.Mount("overlay", "overlay", "", options)], target)
assert (os.getcwd(), os.listdir("/proc/self/fd")) == (before, descriptors)
print(len(os.listdir(target)), open(target + "/same").read())
open(target + "/new", "w").close()
print(os.listdir(f"{base}/upper"))
mounts.unmount(target)
os.rmdir(os.path.join(base, "work", "work"))
os.rename(f"{base}/{int(count) - 1}", f"{base}/away")
try:
    mounts.mount_root([mounts.Mount("overlay", "overlay", "", options)], target)
except OSError as error:
    print(error.strerror, error.filename == f"{base}/{int(count) - 1}/fs", os.path.ismount(target))
assert (os.getcwd(), os.listdir("/proc/self/fd")) == (before, descriptors)
""",
        str(tmp_path),
        str(layers),
        *above,
    )
    assert out.splitlines() == [
        f"{layers + 1} 0",
        "['new']",
        "No such file or directory True False",
    ]


def test_options_that_cannot_be_shortened_are_refused(tmp_path: Path) -> None:
    out = in_namespace(
        """
try:
    mounts.mount_root([mounts.Mount("tmpfs", "x", "", ("size=1m",) * 600)], sys.argv[1])
except OSError as error:
    print(error.strerror)
""",
        str(tmp_path),
    )
    assert out == "mount options take 4799 bytes, the kernel 4096"


def test_a_failed_root_leaves_nothing_mounted(tmp_path: Path) -> None:
    out = in_namespace(
        """
source, target = sys.argv[1:]
try:
    mounts.mount_root([mounts.Mount("bind", source), mounts.Mount("nonsense", "x")], target)
except OSError as error:
    print(error.strerror, os.path.ismount(target), os.path.exists(source + "/kept"))
""",
        _make(tmp_path / "source", "kept"),
        str(tmp_path / "target"),
    )
    assert out == "No such device False True"


def _make(folder: Path, name: str) -> str:
    folder.mkdir()
    (folder / name).touch()
    return str(folder)


def test_prune_removes_empty_mount_points_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").touch()
    mounts.prune(str(tree))
    assert not tree.exists()
    mounts.prune(str(tree))


def test_prune_refuses_data(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("precious")
    with pytest.raises(OSError, match="not an empty mount point"):
        mounts.prune(str(tree))
    assert (tree / "file").read_text() == "precious"


def test_prune_refuses_what_is_mounted(tmp_path: Path) -> None:
    precious = Path(_make(tmp_path / "precious", "file"))
    out = in_namespace(
        """
tree = sys.argv[1]
os.makedirs(tree + "/m")
libc.mount("tmpfs", tree + "/m", "tmpfs")
try:
    mounts.prune(tree)
except OSError as error:
    print(error.strerror)
""",
        str(tmp_path / "tree"),
    )
    assert out == "something is still mounted"
    assert (precious / "file").exists()


def test_mount_value_has_defaults() -> None:
    assert Mount("bind", "/a") == Mount("bind", "/a", "", ())


def test_a_frozen_process_learns_of_mounts_in_what_is_kept_and_holds_none(tmp_path: Path) -> None:
    for name in ("covered/kept/late", "covered/early", "covered/late", "open/late"):
        (tmp_path / name).mkdir(parents=True)
    out = in_namespace(
        """
import socket
os.chdir(sys.argv[1])
base = os.getcwd()
libc.mount("early", "covered/early", "tmpfs")
(ours, theirs), late = socket.socketpair(), ("covered/kept/late", "covered/late", "open/late")

def seen():
    rows = [line.split() for line in open("/proc/self/mountinfo")]
    return sorted(row[4].removeprefix(base + "/") for row in rows if base in row[4])

if not os.fork():
    mounts.freeze([base + "/covered", base + "/absent"], [base + "/covered/kept", "/absent"])
    theirs.send(b" ")
    theirs.recv(1)
    print(seen(), os.listdir(base + "/covered"), os.path.ismount(base + "/covered/kept/late"))
    for directory in ("covered", "covered/kept", "open"):
        try:
            open(f"{base}/{directory}/file", "w")
        except OSError as error:
            print(error.strerror)
    sys.stdout.flush()
    theirs.send(b" ")
    theirs.recv(1)
    print(seen())
    sys.stdout.flush()
    os._exit(0)
theirs.close()
ours.recv(1)
for path in late:
    libc.mount(path, path, "tmpfs")
ours.send(b" ")
ours.recv(1)
for path in (*late, "covered/early"):
    libc.umount(path)
ours.send(b" ")
os.wait()
""",
        str(tmp_path),
    )
    own = ["covered", "covered/kept"]
    late = ["covered/early", *["covered/kept/late"] * 2, "covered/late", "open/late"]
    assert out.splitlines() == [
        f"{sorted([*own, *late])} ['kept'] True",  # those in `covered` lie below the cover
        *["Read-only file system"] * 3,
        str(own),
    ]
