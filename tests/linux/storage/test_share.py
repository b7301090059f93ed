"""The shared directory against a guest that does its worst to it.

What the tests do below `served` is what a guest can have virtiofsd do; each runs in a mount
namespace of its own, as the shim does.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.linux

_SOURCE = str(Path(__file__).parents[3] / "src")

_PREPARE = """
import errno, os, stat, sys, threading, time
from kata.host import libc, mounts
from kata.host.mounts import Mount
from kata.storage.share import Share
from kata.storage.volumes import VolumeError, translate
from kata_api import oci
base = sys.argv[1]
mounts.isolate()
share = Share("s", base + "/shares")
share.create()
def served(guest_path):
    return os.path.join(share.served, guest_path.split("/containers/")[1])
def attempt(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def write(path):
    return attempt(lambda: open(path, "w").close())
def volume(source, *options, container="c"):
    mount = oci.Mount(destination="/v", type="bind", source=source, options=options)
    return served(translate(container, (mount,), share).mounts[0].source)
"""


def _run(tmp_path: Path, body: str) -> list[str]:
    """Run `body` after the preparation in a process of its own; return the lines it prints."""
    run = subprocess.run(
        [sys.executable, "-c", _PREPARE + body, str(tmp_path)],
        env={"PYTHONPATH": _SOURCE, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_a_read_only_volume_is_so_for_the_file_server_too(tmp_path: Path) -> None:
    """The guest's kernel has a read-only mount as well, but that one is the guest's to change."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "file").touch()
    said = _run(
        tmp_path,
        """
libc.mount("tmpfs", base + "/data/sub", "tmpfs")
top = volume(base + "/data", "rbind", "ro", container="top")
print(write(top + "/x"), write(top + "/sub/x"))
all_ = volume(base + "/data", "rbind", "rro", container="all")
print(write(all_ + "/x"), write(all_ + "/sub/x"))
print(write(volume(base + "/file", "rbind", "ro", container="file")))
print(write(volume(base + "/data", "rbind", container="writable") + "/x"))
share.destroy()
print(os.path.exists(share.base))
""",
    )
    # `ro` is about one mount and `rro` about all below it, as in runc.
    assert said == ["EROFS", "done", "EROFS", "EROFS", "EROFS", "done", "False"]


def test_the_host_neither_opens_devices_nor_runs_programs_of_a_guest(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "data"):
        (tmp_path / name).mkdir()
    said = _run(
        tmp_path,
        """
layer = Mount("overlay", "overlay", "", tuple(
    f"{key}={base}/{name}"
    for key, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))))
roots = [
    served(share.add_root("overlay", [layer])),
    served(share.add_root("bind", [Mount("bind", base + "/data")])),
    volume(base + "/data", "rbind"),
]
for root in roots:
    os.mknod(root + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    print(attempt(lambda: os.open(root + "/null", os.O_RDWR)))
    flags = os.statvfs(root).f_flag
    print(all(flags & bit for bit in (os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC)))
    os.unlink(root + "/null")
share.destroy()
""",
    )
    assert said == ["EACCES", "True"] * 3


def test_folders_of_the_tree_itself_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    said = _run(
        tmp_path,
        """
inside = volume(base + "/data", "rbind")
folder = os.path.dirname(inside)
print(write(folder + "/x"), attempt(lambda: os.rename(inside, folder + "/moved")),
      attempt(lambda: os.symlink("/", share.served + "/link")))
share.destroy()
""",
    )
    assert said == ["EROFS", "EROFS", "EROFS"]


def test_later_mounts_of_the_host_arrive_only_where_asked_for(tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    said = _run(
        tmp_path,
        """
plain = volume(base + "/data", "rbind", container="plain")
slave = volume(base + "/data", "rbind", "rslave", container="slave")
libc.mount("tmpfs", base + "/data/sub", "tmpfs")
open(base + "/data/sub/secret", "w").close()
print(os.listdir(plain + "/sub"), os.listdir(slave + "/sub"))
share.destroy()
print(os.listdir(base + "/data/sub"), os.path.exists(share.base))
""",
    )
    assert said == ["[]", "['secret']", "['secret']", "False"]


def test_another_file_system_at_the_same_place_is_another_volume(tmp_path: Path) -> None:
    """Its mount is given the number of the one that has gone, and its root that of the other's."""
    (tmp_path / "data").mkdir()
    said = _run(
        tmp_path,
        """
for name in ("first", "second"):
    libc.mount("tmpfs", base + "/data", "tmpfs")
    open(base + "/data/" + name, "w").close()
    print(os.listdir(volume(base + "/data", container=name)))
    libc.umount(base + "/data", libc.MNT_DETACH)
share.destroy()
""",
    )
    assert said == ["['first']", "['second']"]


def test_what_a_guest_plants_is_neither_followed_nor_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "empty").mkdir(parents=True)
    (victim / "nothing").touch()
    (tmp_path / "root").mkdir()
    said = _run(
        tmp_path,
        """
root = served(share.add_root("c", [Mount("bind", base + "/root")]))
os.symlink(base + "/victim", root + "/link")
os.symlink("../../../../../../../.." + base + "/victim", root + "/up")
os.mkfifo(root + "/fifo")
os.mknod(root + "/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))
os.mkdir(root + "/deep")
os.chdir(root)
for _ in range(300):
    os.mkdir("d")
    os.chdir("d")
os.chdir("/")
open(root + "/empty file", "w").close()
before = sorted(os.listdir(root))
share.remove("c")
share.destroy()
print(os.path.exists(share.base), sorted(os.listdir(base + "/root")) == before)
""",
    )
    assert said == ["False", "True"]
    assert sorted(path.name for path in victim.iterdir()) == ["empty", "nothing"]


def test_a_disk_s_node_that_a_guest_made_plugs_no_disk_of_the_host(tmp_path: Path) -> None:
    """Kubelet binds a subPath of a volume whatever lies there, a node of the host's disk included."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume-subpath").touch()
    said = _run(
        tmp_path,
        """
planted = served(share.add_root("writer", [Mount("bind", base + "/volume")])) + "/disk"
os.mknod(planted, stat.S_IFBLK | 0o666, os.makedev(8, 0))
mounts.bind(base + "/volume/disk", base + "/volume-subpath")
for source in ("/volume/disk", "/volume-subpath"):
    mount = oci.Mount(destination="/d", type="bind", source=base + source, options=("rbind", "rw"))
    try:
        print(translate("reader", (mount,), share).nodes)
    except VolumeError as error:
        print("volumeDevices" in str(error))
""",
    )
    assert said == ["True", "True"]


def test_a_destination_with_dots_names_no_place_on_the_share(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    said = _run(
        tmp_path,
        """
for destination in ("/a/..", "/a/b/../c/", "/"):
    mount = oci.Mount(destination=destination, type="bind", source=base + "/data")
    path = served(translate(destination, (mount,), share).mounts[0].source)
    print(os.path.relpath(path, share.served))
share.destroy()
""",
    )
    assert said == [".volumes/000/root"] * 3


def test_removal_stops_at_what_is_mounted_and_at_links(tmp_path: Path) -> None:
    """Of the same file system too, which a device number would not tell."""
    victim = tmp_path / "victim"
    (victim / "empty").mkdir(parents=True)
    (victim / "nothing").touch()
    said = _run(
        tmp_path,
        """
tree = base + "/tree"
os.makedirs(tree + "/a")
mounts.bind(base + "/victim", tree + "/a")
print(attempt(lambda: mounts.prune(tree)))
mounts.unmount(tree + "/a")
os.rmdir(tree + "/a")
os.symlink(base + "/victim", tree + "/a")
print(attempt(lambda: mounts.prune(tree)))
os.unlink(tree + "/a")
mounts.prune(tree)
os.symlink(base + "/victim", tree)
print(attempt(lambda: mounts.prune(tree)))
os.unlink(tree)

ended = threading.Event()
def swap():
    while not ended.is_set():
        for make in (lambda: os.mkdir(tree + "/x/y"), lambda: os.symlink(base + "/victim", tree + "/x/y")):
            for step in (make, lambda: os.rename(tree + "/x/y", tree + "/x/z"), lambda: os.unlink(tree + "/x/z"),
                         lambda: os.rmdir(tree + "/x/z")):
                attempt(step)
swapper = threading.Thread(target=swap)
swapper.start()
for _ in range(2000):
    attempt(lambda: os.makedirs(tree + "/x/y", exist_ok=True))
    attempt(lambda: mounts.prune(tree))
ended.set()
swapper.join()
share.destroy()
""",
    )
    assert said == ["EXDEV", "ENOTEMPTY", "ELOOP"]
    assert sorted(path.name for path in victim.iterdir()) == ["empty", "nothing"]


def test_a_removal_that_failed_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    said = _run(
        tmp_path,
        """
share.add_root("c", [Mount("bind", base + "/data")])
volume(base + "/data", "rbind")
os.seteuid(65534)  # it may unmount nothing
failed = attempt(lambda: share.remove("c"))
os.seteuid(0)
print(failed != "done", attempt(lambda: share.remove("c")))
share.destroy()
print(os.path.exists(share.base))
""",
    )
    assert said == ["True", "done", "False"]


@pytest.mark.parametrize(
    ("link", "outcome"),
    [("", "done"), ("../../../../../../../..", "done"), ("/proc/self/root", "EEXIST")],
)
def test_a_link_in_an_image_chooses_no_place_on_the_host(
    tmp_path: Path, link: str, outcome: str
) -> None:
    """containerd may ask for a mount below the root, where the image can have a link."""
    victim, root = tmp_path / "victim", tmp_path / "root"
    victim.mkdir()
    inside = root / str(victim).lstrip("/")  # where the link leads for a process in the image
    inside.mkdir(parents=True)
    (root / "conf").symlink_to(f"{link}{victim}")
    said = _run(
        tmp_path,
        """
layers = [Mount("bind", base + "/root"), Mount("tmpfs", "tmpfs", "/conf/new")]
print(attempt(lambda: share.add_root("c", layers)))
share.destroy()
print(os.path.exists(share.base))
""",
    )
    assert said == [outcome, "False"]
    assert not list(victim.iterdir())
    assert [path.name for path in inside.iterdir()] == (["new"] if outcome == "done" else [])


def test_a_source_that_becomes_a_link_is_not_mistaken(tmp_path: Path) -> None:
    """A pod that shares the parent folder swaps the source while another container is created."""
    (tmp_path / "parent" / "real").mkdir(parents=True)
    (tmp_path / "parent" / "real" / "mine").touch()
    said = _run(
        tmp_path,
        """
parent = base + "/parent"
os.symlink("/proc/1", parent + "/link")
os.symlink("real", parent + "/source")
ended = threading.Event()
def swap():
    while not ended.is_set():
        os.rename(parent + "/source", parent + "/other")
        os.rename(parent + "/link", parent + "/source")
        os.rename(parent + "/source", parent + "/link")
        os.rename(parent + "/other", parent + "/source")
swapper = threading.Thread(target=swap)
swapper.start()
seen = set()
deadline = time.monotonic() + 60
number = 0
while number < 500 or "mine" not in seen and time.monotonic() < deadline:
    number += 1
    try:
        inside = volume(parent + "/source", "rbind", container=f"c{number}")
        seen.add(",".join(os.listdir(inside)))
    except VolumeError as error:
        seen.add("refused")
    share.remove(f"c{number}")
ended.set()
swapper.join()
share.destroy()
print(seen <= {"mine", "refused"}, "mine" in seen)
""",
    )
    assert said == ["True", "True"]
