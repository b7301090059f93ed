"""The journal of a sandbox: what `delete` and `kata-ctl cleanup` do with it after a dead shim."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.pod_namespace import namespace
from typer.testing import CliRunner

from kata.cli.ctl import app
from kata.host import child, libc
from kata.network import remains
from kata.network.attachment import Attachment
from kata.resources.cgroup import HostCgroup, hierarchies
from kata.sandbox import journal
from kata.sandbox.journal import Journal, Kind, OwnedProcess
from kata.storage import share

pytestmark = pytest.mark.linux


@pytest.fixture(autouse=True)
def _roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RUN_ROOT", str(tmp_path / "run"))
    monkeypatch.setattr(journal, "SOCKET_DIRECTORY", str(tmp_path / "s"))
    monkeypatch.setattr(share, "HOST_ROOT", str(tmp_path / "shared"))


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["/bin/sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def left(tmp_path: Path) -> list[str]:
    return [str(path) for root in ("run", "shared", "s") for path in (tmp_path / root).rglob("*")]


def dead(name: str) -> Journal:
    """Return the journal of a sandbox whose shim has just died, with its share on disk."""
    record = Journal(name)
    record.create()
    record.record(Kind.SHARE, journal.share_of(name))
    os.makedirs(os.path.join(journal.share_of(name), "rw", "c1", "rootfs"))
    os.makedirs(os.path.join(journal.share_of(name), "ro"))
    record.processes.clear()  # the shim was this very process, and the test goes on
    record._write()
    record.release()
    return record


def test_what_is_told_later_replaces_what_was_told(tmp_path: Path) -> None:
    record = Journal("grown-0", facts={"vcpus": 1, "shared_fs": "virtio-fs"})
    record.create()
    record.tell({"vcpus": 2})
    found = Journal.load("grown-0")
    assert found is not None
    assert found.facts == {"vcpus": 2, "shared_fs": "virtio-fs"}
    record.discard()
    assert not left(tmp_path / "run")


def test_what_is_recorded_is_read_back_and_struck_off() -> None:
    first = Journal("s1", "/run/x.sock")
    first.create()
    first.record(Kind.SHARE, "/nowhere")
    first.record(Kind.CGROUP, "/sys/fs/cgroup/nowhere")
    assert Journal.load("s1") == first
    assert [p.name for p in first.processes] == ["shim"]
    first.strike(Kind.SHARE, "/nowhere")
    first.strike_process(os.getpid())
    loaded = Journal.load("s1")
    assert loaded is not None
    assert loaded.processes == []
    assert [r.path for r in loaded.resources] == ["/run/x.sock", "/sys/fs/cgroup/nowhere"]
    first.discard()
    first.discard()
    assert Journal.load("s1") is None
    assert not os.listdir(journal.RUN_ROOT)


def test_a_second_sandbox_of_the_same_name_is_refused_while_the_first_lives() -> None:
    first = Journal("s1")
    first.create()
    assert first.is_alive()
    with pytest.raises(FileExistsError, match="whose shim runs"):
        Journal("s1").create()
    first.release()
    assert not first.is_alive()


def test_what_a_dead_shim_left_gives_way(tmp_path: Path) -> None:
    dead("s1")
    (tmp_path / "run" / "s1" / "fs.sock").touch()
    second = Journal("s1")
    second.create()
    assert [p.pid for p in second.processes] == [os.getpid()]
    assert left(tmp_path) == [f"{tmp_path}/run/s1", f"{tmp_path}/run/s1/journal.json"]


async def test_a_process_is_in_the_journal_before_it_is_the_program(tmp_path: Path) -> None:
    record = Journal("s1")
    record.create()
    file = tmp_path / "run" / "s1" / "journal.json"
    read_end, write_end = os.pipe()
    process = child.spawn(
        ["/bin/cat", str(file)],
        output=write_end,
        prepare=lambda: record.add_process("cat", os.getpid()),
    )
    os.close(write_end)
    assert await process.wait() == 0
    seen = json.loads(os.read(read_end, 65536))
    os.close(read_end)
    assert ["cat", process.pid] in [entry[:2] for entry in seen["processes"]]
    record.discard()


def test_clean_kills_and_removes(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    record = dead("s1")
    record.add_process("qemu", sleeper.pid)
    listener = socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "shim.sock")
    listener.bind(path)
    record.record(Kind.SOCKET, path)
    listener.listen()
    told: list[str] = []
    served = Journal.load("s1")
    assert served is not None
    assert not any("socket" in str(one) for one in served.holdings())
    listener.close()
    served.clean(told.append)
    assert sleeper.wait(5) == -signal.SIGKILL
    assert told == [
        f"process {sleeper.pid} (qemu)",
        f"socket {path}",
        f"share {journal.share_of('s1')}",
        f"directory {served.directory}",
    ]
    assert left(tmp_path) == []
    assert not os.path.exists(path)
    served.clean(told.append)
    assert len(told) == 4


def test_a_recycled_pid_and_one_of_another_boot_are_spared(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    stranger = OwnedProcess("qemu", sleeper.pid, 1)
    assert not stranger.is_running()
    stranger.kill()
    for record, age in ((dead("s1"), 1), (dead("s2"), 0)):
        record.add_process("qemu", sleeper.pid)
        if age:
            record.processes[-1] = stranger
        else:
            record.boot = "another"
        record._write()
        again = Journal.load(record.name)
        assert again is not None
        again.clean()
    assert sleeper.poll() is None


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_the_links_that_a_living_sandbox_uses_are_left_to_it(model: str) -> None:
    """A pod's sandbox is made anew in its network before somebody cleans up after the dead one."""
    with namespace() as pod:
        pod.add_pair("eth0", "10.9.0.2/24")
        record = dead("dead")
        record.record(Kind.NETWORK, pod.path)
        lost = Attachment(pod.path, model, queues=1, vhost=False)
        lost.attach()
        lost.handed_over()  # the descriptors end with the machine
        living = Journal("living")
        living.create()
        descriptor = os.open(pod.path, os.O_RDONLY)
        living.record(Kind.NETWORK, "/run/netns/absent")
        living.record(Kind.NETWORK, f"/proc/{os.getpid()}/fd/{descriptor}")  # by another name
        used = Attachment(pod.path, model, queues=1, vhost=False)
        used.attach()
        told: list[str] = []
        assert not [each for each in record.holdings() if "network" in str(each)]
        record.clean(told.append)
        assert not [each for each in told if "network" in each]
        assert remains.exist(pod.path)
        living.release()  # its shim dies, too
        assert [each for each in living.holdings() if "network" in str(each)]
        living.processes.clear()  # the shim was this very process
        living.clean()
        assert not remains.exist(pod.path)
        used.detach()
        os.close(descriptor)


def test_what_resists_keeps_its_record(tmp_path: Path) -> None:
    record = dead("s1")
    data = Path(journal.share_of("s1"), "rw", "c1", "data")
    data.write_text("of a user")
    with pytest.raises(OSError, match="not an empty mount point"):
        record.clean()
    assert Journal.load("s1") == record
    data.unlink()
    record.clean()
    assert left(tmp_path) == []


def test_a_mount_below_the_share_is_unmounted_and_its_files_kept(tmp_path: Path) -> None:
    """In a mount namespace of its own, since the test needs a mount."""
    source = tmp_path / "precious"
    source.mkdir()
    (source / "file").write_text("kept")
    record = dead("s1")
    target = os.path.join(journal.share_of("s1"), "rw", "c1", "rootfs")
    pid = os.fork()
    if pid == 0:
        try:
            libc.unshare(libc.CLONE_NEWNS)
            libc.mount("", "/", "", libc.MS_SLAVE | libc.MS_REC)
            libc.mount(str(source), target, "", libc.MS_BIND)
            told: list[str] = []
            record.clean(told.append)
            os._exit(0 if f"mount {target}" in told else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (source / "file").read_text() == "kept"
    assert not os.path.exists(record.directory)


@pytest.fixture
def pod() -> Iterator[tuple[HostCgroup, Journal]]:
    """The group of a dead sandbox, with its record, in a pod whose group was made for it."""
    trees = hierarchies()
    if not trees or not all(os.access(tree.own, os.W_OK) for tree in trees):
        pytest.skip("the control groups of this machine cannot be written")
    group, record = HostCgroup(f"kata-test{os.getpid()}", "dead", trees), dead("s1")
    group.create(
        lambda path: record.record(Kind.CGROUP if path in group.paths else Kind.CGROUP_ABOVE, path)
    )
    yield group, record
    for path in group.paths:
        for folder, _, _ in os.walk(os.path.dirname(path), topdown=False):
            os.rmdir(folder)


def test_the_groups_that_others_use_are_left_to_them(
    pod: tuple[HostCgroup, Journal], sleeper: "subprocess.Popen[bytes]"
) -> None:
    group, record = pod
    living = HostCgroup(group.parent, "living", group.trees)
    living.create(lambda _: None)
    for path in group.paths:
        Path(path, "cgroup.procs").write_text(str(sleeper.pid))  # such as a hook leaves
    told: list[str] = []
    record.clean(told.append)
    assert sorted(told[: len(group.paths)]) == sorted(f"cgroup {path}" for path in group.paths)
    assert len(told) == len(group.paths) + 2  # the share and the directory
    assert sleeper.poll() is None
    assert not any(map(os.path.exists, group.paths))
    assert all(map(os.path.isdir, living.paths))
    assert not os.path.exists(record.directory)
    for path in group.paths:
        Path(os.path.dirname(os.path.dirname(path)), "cgroup.procs").write_text(str(sleeper.pid))
    living.remove(lambda _: None)


def test_the_last_sandbox_takes_the_groups_above_along(pod: tuple[HostCgroup, Journal]) -> None:
    group, record = pod
    record.clean()
    assert not any(os.path.exists(os.path.dirname(path)) for path in group.paths)


def test_groups_that_resist_are_waited_for_together(
    pod: tuple[HostCgroup, Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    group, record = pod
    path, wait = group.paths[0], 1.0
    for name in map(str, range(8)):
        os.makedirs(os.path.join(path, name, "below"))
        record.record(Kind.CGROUP, os.path.join(path, name))
    monkeypatch.setattr(journal, "_CGROUP_WAIT", wait)
    began = time.monotonic()
    with pytest.raises(OSError, match="still has processes") as error:
        record.clean()
    assert time.monotonic() - began < 8 * wait  # one after the other would take nine
    assert str(error.value).count("still has") == 9
    assert os.path.exists(record.directory)


@pytest.mark.parametrize("content", [b"", b'{"name": "s1-0123', b"[]", b"\0" * 300, None])
def test_a_journal_that_cannot_be_read_hinders_nothing(
    tmp_path: Path, content: bytes | None
) -> None:
    name = "s1-01234567"
    record = dead(name)
    file = tmp_path / "run" / name / "journal.json"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "0123456789abcdef").touch()
    (tmp_path / "s" / "another").touch()
    mark = f"source={journal.share_of(name)}/ro"
    code = "import time; print('up', flush=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", code, mark], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        result = CliRunner().invoke(app, ["cleanup", "s1"])
        process.terminate()
        assert process.wait(5) == -signal.SIGKILL
    assert result.exit_code == 0
    assert ("cannot be read" in result.output) == (content is not None)
    assert left(tmp_path) == [f"{tmp_path}/s/another"]
    assert not record.is_alive()


def test_the_command_spares_the_living_and_says_what_it_removes(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    living = Journal("living-00000001")
    living.create()
    record = dead("gone-00000001")
    record.add_process("qemu", sleeper.pid)
    for each in ("rw", "ro"):
        os.makedirs(tmp_path / "shared" / "orphan-00000001" / each)
    run = CliRunner()
    things = [
        f"gone-00000001: would remove process {sleeper.pid} (qemu)",
        f"gone-00000001: would remove share {tmp_path}/shared/gone-00000001",
        f"gone-00000001: would remove directory {tmp_path}/run/gone-00000001",
        f"orphan-00000001: would remove share {tmp_path}/shared/orphan-00000001",
    ]
    before = left(tmp_path)
    shown = run.invoke(app, ["cleanup", "--dry-run"])
    assert (shown.exit_code, shown.output.splitlines()) == (0, things)
    assert left(tmp_path) == before
    assert sleeper.poll() is None
    refused = run.invoke(app, ["cleanup", "living"])
    assert refused.exit_code == 1
    assert "living-00000001: its shim is alive" in refused.output
    one = run.invoke(app, ["cleanup", "orphan"])
    assert (one.exit_code, one.output.count("\n")) == (0, 2)
    cleaned = run.invoke(app, ["cleanup"])
    removed = [line.replace("would remove", "removed") for line in things[:3]]
    assert (cleaned.exit_code, cleaned.output.splitlines()) == (0, removed)
    assert sleeper.wait(5) == -signal.SIGKILL
    assert left(tmp_path) == [
        f"{tmp_path}/run/living-00000001",
        f"{tmp_path}/run/living-00000001/journal.json",
    ]
    assert run.invoke(app, ["cleanup", "nobody"]).exit_code == 0
    (tmp_path / "run" / "stuck-00000001").mkdir()
    stuck = tmp_path / "shared" / "stuck-00000001" / "rw"
    stuck.mkdir(parents=True)
    stuck.with_name("ro").mkdir()
    (stuck / "data").write_text("of a user")
    failed = run.invoke(app, ["cleanup"])
    assert failed.exit_code == 1
    assert "stuck-00000001: not everything could be removed" in failed.output


def test_the_command_leaves_what_is_another_runtimes(tmp_path: Path) -> None:
    """Upstream's Kata has its sandboxes in the same places; it may be installed beside us."""
    for path in (
        "run/upstream",
        "run/upstream-00000001",
        "shared/upstream/rw",
        "shared/upstream/ro",
        "shared/upstream-00000001/rw",
        "shared/upstream-00000001/ro",
        "shared/other-00000001/mounts",
    ):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "run" / "upstream-00000001" / "shim-monitor.sock").touch()
    for file in ("file", "file-00000001"):
        (tmp_path / "run" / file).touch()
    before = sorted(left(tmp_path))
    run = CliRunner()
    names = ["file", "file-00000001", "other-00000001", "upstream", "upstream-00000001"]
    shown = run.invoke(app, ["cleanup"])
    assert shown.exit_code == 0, shown.exception
    said = [f"{name}: not a sandbox of this runtime's; left alone" for name in names]
    assert shown.output.splitlines() == said
    assert run.invoke(app, ["cleanup", "upstream"]).exit_code == 1
    assert Journal.load("file") is None
    assert sorted(left(tmp_path)) == before


def test_a_look_at_the_lock_is_not_taken_for_a_living_shim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "_SEIZE_WAIT", 30.0)  # whatever keeps the thread from its turn
    looking = Journal("s1")
    looking.seize()
    thread = threading.Timer(0.03, looking.release)
    thread.start()
    taking = Journal("s1")
    taking.seize()
    thread.join()
    taking.discard()
