"""Volumes as kubelet passes them: files and folders of the host, mounted into containers."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.command import run
from lab.cri import Cri, RunningPod
from lab.images import DEBIAN
from lab.pod import Container, Mount, Propagation
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd


@pytest.fixture
def mounts() -> Iterator[ExitStack]:
    """Where a test's own mounts on the host register their end."""
    with ExitStack() as stack:
        yield stack


def mount(stack: ExitStack, target: Path, *words: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    run(["mount", *words, target])
    stack.callback(run, ["umount", "-l", target])


def refused(cri: Cri, container: str, script: str, why: str) -> bool:
    ended = cri.exec(container, "sh", "-c", script)
    return ended.code != 0 and why in ended.stderr


def test_files_and_folders(trial: PodTrial, shared_pod: RunningPod, tmp_path: Path) -> None:
    """hostPath, and subPath, which kubelet resolves before the CRI sees it."""
    cri = trial.cri
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "deep").write_text("deep\n")
    (tmp_path / "file").write_text("from the host\n")
    (tmp_path / "log").write_text("")
    volumes = (
        Mount(tmp_path / "folder", "/folder"),
        Mount(tmp_path / "folder", "/frozen", readonly=True),
        Mount(tmp_path / "folder" / "sub", "/a/b/sub"),
        Mount(tmp_path / "folder" / "sub" / "deep", "/etc/one-file"),
        Mount(tmp_path / "file", "/file", readonly=True),
        Mount(tmp_path / "log", "/dev/termination-log"),
    )
    main = Container(name="files", mounts=volumes)
    container = trial.add(shared_pod, main)
    assert (
        cri.sh(container, "cat /file /etc/one-file /a/b/sub/deep") == "from the host\ndeep\ndeep\n"
    )

    # Both sides see what either writes, with its owner and mode.
    script = "echo inside > /folder/new; chmod 640 /folder/new; chown 1234:4321 /folder/new"
    cri.sh(container, script)
    new = (tmp_path / "folder" / "new").stat()
    assert (new.st_uid, new.st_gid, stat.S_IMODE(new.st_mode)) == (1234, 4321, 0o640)
    (tmp_path / "folder" / "later").write_text("later\n")
    assert cri.sh(container, "cat /folder/later /frozen/new") == "later\ninside\n"
    cri.sh(container, "rm /folder/later; mv /folder/new /folder/moved; ln -s moved /folder/link")
    assert sorted(os.listdir(tmp_path / "folder")) == ["link", "moved", "sub"]
    assert os.readlink(tmp_path / "folder" / "link") == "moved"

    for path in ("/frozen/x", "/file"):
        assert refused(cri, container, f"echo > {path}", "Read-only file system")
    cri.sh(container, "printf 'the reason' > /dev/termination-log")
    assert (tmp_path / "log").read_text() == "the reason"


def test_a_config_map_is_swapped_whole(
    trial: PodTrial, shared_pod: RunningPod, tmp_path: Path
) -> None:
    """kubelet writes a new folder and renames a symbolic link to it over the old one."""
    cri, link = trial.cri, tmp_path / "..data"

    def write(version: str) -> None:
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        for name in ("one", "two"):
            (folder / name).write_text(version)
        new = tmp_path / "..data_tmp"
        new.symlink_to(folder.name)
        new.rename(link)

    write("first")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    mapped = Container(name="mapped", mounts=(Mount(tmp_path, "/config", readonly=True),))
    container = trial.add(shared_pod, mapped)
    assert cri.sh(container, "cat /config/one /config/two; readlink /config/one") == (
        "firstfirst..data/one\n"
    )
    write("second")
    both = "cat /config/one /config/two"
    wait_until(lambda: cri.sh(container, both) == "secondsecond", "the update arrives", 60)
    assert cri.sh(container, "readlink /config/..data") == "..second\n"


def test_an_empty_dir_of_two_containers(
    trial: PodTrial, shared_pod: RunningPod, tmp_path: Path, mounts: ExitStack
) -> None:
    """On disk and in memory; files, FIFOs and unix sockets pass between the containers."""
    cri = trial.cri
    empty_dirs = tmp_path / "volumes" / "kubernetes.io~empty-dir"  # as kubelet calls them
    disk, memory = empty_dirs / "disk", empty_dirs / "memory"
    disk.mkdir(mode=0o777, parents=True)
    mount(mounts, memory, "-t", "tmpfs", "-o", "size=8m", "memory")
    volumes = (Mount(disk, "/disk"), Mount(memory, "/memory"))
    one, other = (
        trial.add(shared_pod, Container(name=name, mounts=volumes)) for name in ("one", "other")
    )
    for folder in ("/disk", "/memory"):
        cri.sh(one, f"echo written > {folder}/file; mkfifo {folder}/fifo")
        assert cri.sh(other, f"cat {folder}/file") == "written\n"
        cri.sh(one, f"(echo through the fifo > {folder}/fifo) >/dev/null 2>&1 </dev/null &")
        assert cri.sh(other, f"cat {folder}/fifo", timeout_s=60) == "through the fifo\n"
    full = cri.exec(one, "dd", "if=/dev/zero", "of=/memory/much", "bs=1M", "count=9")
    assert "No space left on device" in full.stderr
    assert stat.S_ISFIFO((disk / "fifo").stat().st_mode)

    # A unix socket in the volume: one's syslogd listens where the other's logger speaks.
    cri.sh(one, "ln -s /disk/socket /dev/log; syslogd -O /disk/received")
    cri.sh(other, "ln -s /disk/socket /dev/log")
    wait_until((disk / "socket").exists, "the socket is there", 60)
    assert stat.S_ISSOCK((disk / "socket").stat().st_mode)
    cri.sh(other, "logger through the socket")
    received = disk / "received"
    wait_until(
        lambda: received.exists() and "through the socket" in received.read_text(),
        "the datagram arrives",
        60,
    )


# An argument is a file to wait for before the end.
CONNECT = """
$s = IO::Socket::UNIX->new(Peer => "/volume/stream") or die $!;
print $s "question\\n"; $s->shutdown(1); $| = 1; print <$s>;
for $go (@ARGV) { select(undef, undef, undef, 0.02) until -e $go }
"""
SERVE = """
$l = IO::Socket::UNIX->new(Local => "/volume/stream", Listen => 5) or die $!;
$| = 1; print "listening\\n";
while ($c = $l->accept) { @in = <$c>; print $c "answer to ", @in; close $c }
"""
# inotify_init1 and inotify_add_watch, for IN_MOVED_TO, IN_CREATE and IN_CLOSE_WRITE.
WATCH = """
$p = "/config"; $f = syscall(294, 0); syscall(254, $f, $p, 0x188) < 0 and die $!;
open(F, "<&=", $f); $| = 1; print "watching\\n";
while (sysread(F, $b, 4096)) {
    while ($b) { ($w, $m, $c, $n) = unpack("iIII", $b); print unpack("x16Z*", $b), "\\n"; substr($b, 0, 16 + $n) = "" }
}
"""


def perl(script: str) -> tuple[str, ...]:
    return ("perl", "-MIO::Socket::UNIX", "-e", script)


def test_stream_sockets_and_events_of_files(
    trial: PodTrial, shared_pod: RunningPod, tmp_path: Path
) -> None:
    cri = trial.cri
    config = tmp_path / "volumes" / "kubernetes.io~configmap" / "config"  # as kubelet calls it
    config.mkdir(parents=True)
    volumes = (Mount(tmp_path, "/volume"), Mount(config, "/config"))
    cri.load_image(DEBIAN)
    ids = {
        name: trial.add(
            shared_pod,
            Container(name=name, command=perl(script), mounts=volumes, image=DEBIAN.name),
        )
        for name, script in (("serve", SERVE), ("watch", WATCH))
    }
    log = cri.log_path(shared_pod, "serve")
    wait_until(lambda: "listening" in log.read_text(), "the server listens", 60)
    asking = (*perl(CONNECT), *(["/volume/go"] if cri.daemon.release.loses_output else []))
    asker = Container(name="ask", command=asking, mounts=volumes, image=DEBIAN.name)
    ids["ask"] = trial.add(shared_pod, asker)
    answers = cri.log_path(shared_pod, "ask")
    ended = trial.wait_for_end(
        ids["ask"], lambda: "answer to question" in answers.read_text(), tmp_path / "go"
    )
    assert ended.exit_code == 0

    log = cri.log_path(shared_pod, "watch")
    wait_until(lambda: "watching" in log.read_text(), "inotify is set up", 60)
    (config / "..data_tmp").symlink_to("folder")
    (config / "..data_tmp").rename(config / "..data")
    wait_until(lambda: "F ..data\n" in log.read_text(), "the event arrives", 60)


def test_mounts_below_a_volume(
    trial: PodTrial, shared_pod: RunningPod, tmp_path: Path, mounts: ExitStack
) -> None:
    """What is mounted below comes along; read-only is the volume alone, or all below it, too."""
    cri = trial.cri
    mount(mounts, tmp_path / "volume", "-t", "tmpfs", "volume")
    mount(mounts, tmp_path / "volume" / "below", "-t", "tmpfs", "below")
    (tmp_path / "volume" / "below" / "file").write_text("below\n")
    volumes = [
        Mount(tmp_path / "volume", "/volume"),
        Mount(tmp_path / "volume", "/frozen", readonly=True),
    ]
    recursive = has_recursive_read_only(cri, trial.runtime.name)
    if recursive:
        volumes.append(
            Mount(tmp_path / "volume", "/solid", readonly=True, recursive_read_only=True)
        )
    container = trial.add(shared_pod, Container(name="below", mounts=volumes))
    assert cri.sh(container, "cat /volume/below/file /frozen/below/file") == "below\nbelow\n"
    assert refused(cri, container, "echo > /frozen/x", "Read-only file system")
    cri.sh(container, "echo changed > /frozen/below/file")
    assert (tmp_path / "volume" / "below" / "file").read_text() == "changed\n"
    if recursive:
        for path in ("/solid/x", "/solid/below/file"):
            assert refused(cri, container, f"echo > {path}", "Read-only file system")


def has_recursive_read_only(cri: Cri, handler: str) -> bool:
    """Tell what the daemon says of the handler; one of 1.6 says nothing."""
    known = {one.name: one for one in cri.call("Status").runtime_handlers}
    return handler in known and known[handler].features.recursive_read_only_mounts


def test_later_mounts_of_the_host(
    trial: PodTrial, shared_pod: RunningPod, tmp_path: Path, mounts: ExitStack
) -> None:
    """HostToContainer sees them, None does not."""
    cri = trial.cri
    for name in ("slave", "private"):
        mount(mounts, tmp_path / name, "-t", "tmpfs", name)
        run(["mount", "--make-shared", tmp_path / name])
        (tmp_path / name / "later").mkdir()
    volumes = (
        Mount(tmp_path / "slave", "/slave", propagation=Propagation.HOST_TO_CONTAINER),
        Mount(tmp_path / "private", "/private"),
    )
    container = trial.add(shared_pod, Container(name="propagated", mounts=volumes))
    for name in ("slave", "private"):
        mount(mounts, tmp_path / name / "later", "-t", "tmpfs", "later")
        (tmp_path / name / "later" / "file").write_text("later\n")
    script = "cat /slave/later/file"
    wait_until(lambda: cri.exec(container, "sh", "-c", script).stdout == "later\n", "the mount", 60)
    assert cri.sh(container, "ls /private/later") == ""


def test_a_device_of_the_host(trial: PodTrial, shared_pod: RunningPod, tmp_path: Path) -> None:
    """volumeDevices: a block device under a name of the container's choice."""
    cri = trial.cri
    backing = tmp_path / "disk"
    backing.write_bytes(b"first block".ljust(4 << 20, b"\0"))
    device = run(["losetup", "--find", "--show", backing]).stdout.strip()
    try:
        main = Container(name="device", devices=((Path(device), "/dev/xvda"),))
        container = trial.add(shared_pod, main)
        assert cri.sh(container, "head -c 11 /dev/xvda") == "first block"
        assert (
            cri.sh(container, "test -b /dev/xvda && blockdev --getsize64 /dev/xvda") == "4194304\n"
        )
        cri.sh(container, "printf written | dd of=/dev/xvda bs=512 seek=1 conv=fsync 2>/dev/null")
        run(["blockdev", "--flushbufs", device])
        assert backing.read_bytes()[512:519] == b"written"
    finally:
        run(["losetup", "--detach", device])
