"""Fields of a specification, written as config.json has them, under runc and under the agent."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import Guest, make_process, make_spec
from test_against_runc import _run, as_json

from kata.agent_client import to_agent
from kata_agent import identity
from kata_agent import syscalls as sc
from kata_agent.copy_up import copy_tree
from kata_api import oci
from ttrpc import RpcError

pytestmark = pytest.mark.linux

Change = Callable[[dict[str, Any]], object]

# Mount point, options, kind of propagation, file system. Not the numbers, nor the super block's
# options, which hold sizes of this machine.
MOUNTS = (
    r"sed -E 's/^[0-9]+ [0-9]+ [0-9:]+ [^ ]+ ([^ ]+ [^ ]+) (.*) ?- ([^ ]+) .*/\1 \2 \3/; "
    r"s/(shared|master|propagate_from):[0-9]+/\1/g' /proc/self/mountinfo"
)


class Sides:
    """One specification under both; `tree` is a folder of this host with a mount below it."""

    def __init__(self, guest: Guest, runc: str, folder: Path, tree: Path) -> None:
        self._guest, self._runc, self._folder = guest, runc, folder
        self.tree = tree

    async def both(
        self, command: str, change: Change, prepare: Callable[[Path], object] = lambda _: None
    ) -> list[str]:
        """Run ``command`` and return what each said: ours, then runc's."""
        outcomes = await self.outcomes(["sh", "-c", command], change, prepare)
        for outcome in outcomes:
            assert outcome.startswith("exit 0\n"), outcome
        return outcomes

    async def outcomes(
        self, args: list[str], change: Change, prepare: Callable[[Path], object] = lambda _: None
    ) -> list[str]:
        """Run a program; return its exit code and sorted output, or the error instead of them."""
        return [
            await self._ours(self._document(args, change, prepare)),
            await self._theirs(self._document(args, change, prepare)),
        ]

    def _document(
        self, args: list[str], change: Change, prepare: Callable[[Path], object]
    ) -> dict[str, Any]:
        root = self._guest.new_rootfs()
        Path(root, "bin/sed").symlink_to("busybox")
        prepare(Path(root))
        document = as_json(make_spec(root, make_process(*args)))
        change(document)
        return document

    async def _ours(self, document: dict[str, Any]) -> str:
        spec = to_agent.spec(oci.decode_spec(json.dumps(document).encode()))
        try:
            code, out, err = await self._guest.run_spec(spec)
        except RpcError as error:
            return error.message
        return _outcome(code, out + err)

    async def _theirs(self, document: dict[str, Any]) -> str:
        bundle = self._folder / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(document))
        state = f"--root={self._folder}/state"
        code, out = await _run(self._runc, state, "run", f"s{os.getpid()}", cwd=bundle)
        return _outcome(code, out)


def _outcome(code: int, out: str) -> str:
    return "\n".join([f"exit {code}", *sorted(line.rstrip() for line in out.splitlines())])


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file and a tmpfs below it."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "file").write_text("text\n")
    sc.mount("tmpfs", str(tree / "below"), "tmpfs", sc.MS_NOSUID, "size=64k")
    yield tree
    sc.umount(str(tree / "below"))


@pytest.fixture
def sides(guest: Guest, runc: str, tmp_path: Path, tree: Path) -> Sides:
    return Sides(guest, runc, tmp_path, tree)


def mount(destination: str, kind: str, source: object, *options: str) -> dict[str, Any]:
    options_ = list(options)
    return {"destination": destination, "type": kind, "source": str(source), "options": options_}


def mounts(*added: dict[str, Any]) -> Change:
    return lambda spec: spec["mounts"].extend(added)


FLAGS = (
    *("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime"),
    *("nodiratime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime"),
    *("nosymfollow", "symfollow", "acl", "noacl"),
)
OF_FILE_SYSTEMS = ("sync", "async", "dirsync", "lazytime", "nolazytime", "silent", "loud")
PROPAGATION = (
    *("private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"),
)
# Without those that runc 1.1 hands to the kernel in a way that it refuses: ratime, rnostrictatime.
RECURSIVE = (
    *("rro", "rrw", "rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec", "rnodiratime"),
    *("rdiratime", "rnoatime", "rrelatime", "rstrictatime", "rnosymfollow", "rsymfollow"),
)


async def test_words_of_tmpfs(sides: Sides) -> None:
    words = (*FLAGS, *OF_FILE_SYSTEMS, *PROPAGATION, "mode=0711", "size=128k", "nr_inodes=9")
    added = [mount(f"/t/{word}", "tmpfs", "tmpfs", word) for word in words]
    ours, theirs = await sides.both(f"{MOUNTS}; stat -c '%n %a' /t/*", mounts(*added))
    assert ours == theirs
    assert len(re.findall(r"^/t/", ours, re.MULTILINE)) == 2 * len(words)


async def test_words_of_binds(sides: Sides) -> None:
    singles = [(kind, word) for kind in ("bind", "rbind") for word in (*FLAGS, *PROPAGATION)]
    more = [("rbind", word) for word in RECURSIVE]
    several = [
        *(("rbind", "ro", "rrw"), ("rbind", "rw", "rro"), ("rbind", "rnoatime")),
        *(("rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"), ("rbind", "slave", "rshared")),
        ("bind", "unknown=1", "ro"),
    ]
    added = [
        mount(f"/b/{'+'.join(options)}", "bind", sides.tree, *options)
        for options in (*singles, *more, *several)
    ]
    ours, theirs = await sides.both(MOUNTS, mounts(*added))
    assert ours == theirs
    assert re.search(r"^/b/rbind\+rro/below ro,nosuid", ours, re.MULTILINE)
    assert re.search(r"^/b/rbind\+ro/below rw,nosuid", ours, re.MULTILINE)


async def test_kinds_of_mounts(sides: Sides) -> None:
    """Also where a mount is: over a link, at what is missing, by an option instead of a type."""

    def prepare(root: Path) -> None:
        (root / "etc/deep/er").mkdir(parents=True)
        (root / "etc/deep").chmod(0o2711)
        (root / "etc/deep/file").write_text("copied\n")
        os.chown(root / "etc/deep/file", 7, 8)
        (root / "etc/deep/file").chmod(0o4755)
        (root / "etc/deep/link").symlink_to("/nowhere")
        (root / "to-etc").symlink_to("/etc")
        (root / "dangling").symlink_to("missing/target")

    file = sides.tree / "file"
    added = [
        mount("/m/queue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/m/pts", "devpts", "devpts", "newinstance", "ptmxmode=0600", "mode=0600", "gid=7"),
        mount("/m/proc", "proc", "proc", "ro", "hidepid=2"),
        mount("/m/sys", "sysfs", "sysfs", "ro", "nodev"),
        mount("/m/plain", "tmpfs", "tmpfs"),
        mount("/m/file", "bind", file, "bind", "ro"),
        mount("/m/new/file", "", file, "bind"),
        mount("/m/tree", "none", sides.tree, "rbind", "rro"),
        mount("/to-etc/through", "bind", sides.tree, "bind"),
        mount("/dangling", "bind", sides.tree, "rbind"),
        mount("/etc/deep", "tmpfs", "tmpfs", "tmpcopyup", "nodev"),
        mount("/tmp", "tmpfs", "tmpfs", "ro"),
        mount("/proc/uptime", "bind", file, "bind"),
        mount("/proc/acpi", "tmpfs", "tmpfs", "ro"),
    ]
    command = (
        f"{MOUNTS}; cd /etc/deep; stat -c '%n %F %a %u:%g' . * /m/* /tmp /m/pts/ptmx; "
        "readlink link; cat file /m/new/file /proc/uptime; test -w /tmp; echo $?"
    )
    ours, theirs = await sides.both(command, mounts(*added), prepare)
    assert ours == theirs
    assert "file regular file 4755 7:8" in ours
    assert re.search("^copied$", ours, re.MULTILINE)


def test_a_copy_goes_without_attributes_that_its_file_system_refuses(tmp_path: Path) -> None:
    """As a tmpfs of Linux before 6.6 refuses those of users, a ramfs refuses all."""
    places = [tmp_path / kind for kind in ("tmpfs", "ramfs", "back")]
    for place in places:
        place.mkdir()
        sc.mount("x", str(place), place.name.replace("back", "tmpfs"), 0)
    descriptors = [os.open(place, os.O_PATH) for place in places]
    try:
        (places[0] / "folder").mkdir()
        (places[0] / "folder/file").write_text("text")
        for name in ("folder", "folder/file"):
            os.setxattr(places[0] / name, "trusted.x", b"1")
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(places[1], "trusted.x", b"1")
        copy_tree(*descriptors[:2])
        copy_tree(*descriptors[1:])
        assert (places[2] / "folder/file").read_text() == "text"
    finally:
        for fd, place in zip(descriptors, places, strict=True):
            os.close(fd)
            sc.umount(str(place))


@pytest.mark.parametrize("propagation", PROPAGATION[:-2])
async def test_propagation_of_the_root(sides: Sides, propagation: str) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["rootfsPropagation"] = propagation
        spec["mounts"].append(mount("/b", "bind", sides.tree, "rbind"))

    command = f"{MOUNTS} | grep -E '^/ |^/b|^/proc '"
    ours, theirs = await sides.both(command.replace("grep", "/bin/busybox grep"), change)
    if "shared" in propagation:  # runc 1.1 makes the root private all the same; later ones do not
        assert "\n/ rw,relatime shared  " in ours
        ours, theirs = (re.sub(" shared ", " ", text) for text in (ours, theirs))
    assert ours == theirs


async def test_a_device_folder_that_is_read_only(sides: Sides) -> None:
    def change(spec: dict[str, Any]) -> None:
        for entry in spec["mounts"]:
            if entry["destination"] == "/dev":
                entry["options"].append("ro")
        spec["root"]["readonly"] = True
        spec["linux"]["maskedPaths"] = ["/etc/passwd", "/run", "/no/such", "/proc/version"]
        spec["linux"]["readonlyPaths"] = [
            "/dev/shm",
            "/proc/sys/kernel",
            "/no/such",
            "/proc/uptime",
        ]

    command = f"{MOUNTS}; ls -A /dev /run; cat /etc/passwd /proc/version; cd /dev; stat -c %a%F *"
    ours, theirs = await sides.both(command, change)
    assert ours == theirs
    assert re.search(r"^/dev ro", ours, re.MULTILINE)


async def test_a_device_folder_of_the_host_stays_as_it_is(sides: Sides) -> None:
    def change(spec: dict[str, Any]) -> None:
        kept = [entry for entry in spec["mounts"] if not entry["destination"].startswith("/dev")]
        spec["mounts"] = [*kept, mount("/dev/", "bind", sides.tree, "bind")]
        spec["linux"]["maskedPaths"] = []

    os.mknod(sides.tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # runc asks for it
    ours, theirs = await sides.both("ls -A /dev", change)
    assert ours == theirs == "exit 0\nbelow\nfile\nnull"


@pytest.mark.parametrize("umask", [None, 0, 0o27, 0o777])
async def test_umask(sides: Sides, umask: int | None) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["user"] |= {} if umask is None else {"umask": umask}

    command = "umask; cd /tmp; touch f; mkdir d; stat -c '%n %a' f d /made /made/it"
    ours, theirs = await sides.both(
        command, lambda spec: (change(spec), spec["process"].update(cwd="/made/it"))
    )
    assert ours == theirs


async def test_process_fields(sides: Sides) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"] |= {
            "oomScoreAdj": 321,
            "rlimits": [
                {"type": kind, "soft": most - 1, "hard": most}
                for kind, number in identity.LIMITS.items()
                for most in [min(resource.prlimit(0, number)[1] % (1 << 64), (1 << 40) + number)]
                if most
            ],
        }
        spec["process"]["user"]["additionalGids"] = [0, 5, 5, 2000000000]

    command = "cat /proc/self/limits /proc/self/oom_score_adj; id"
    ours, theirs = await sides.both(command, change)
    assert ours.splitlines() == theirs.splitlines()
    assert "\n321\n" in ours


def process(**fields: Any) -> Change:
    return lambda spec: spec["process"].update(fields)


def linux(**fields: Any) -> Change:
    return lambda spec: spec["linux"].update(fields)


def prepare_programs(root: Path) -> None:
    for name, content, mode in (
        ("unexecutable", b"#!/bin/sh\n", 0o644),
        ("foreign", b"\x7fELF\x02\x01\x01" + b"\0" * 60, 0o755),
        ("no-interpreter", b"#!/no/interpreter\n", 0o755),
        ("text", b"hello\n", 0o755),
    ):
        (root / "bin" / name).write_bytes(content)
        (root / "bin" / name).chmod(mode)
    (root / "private").mkdir(mode=0o700)
    (root / "to-proc").symlink_to("proc")
    (root / "to-nothing").symlink_to("tmp/../../to-proc/nothing")


# What to change, and the words that both must say; "" for runc's last ones.
ERRORS: dict[str, tuple[Change, str]] = {
    "program-missing": (
        process(args=["nosuch"]),
        'exec: "nosuch": executable file not found in $PATH',
    ),
    "path-missing": (
        process(args=["/no/such"]),
        'exec: "/no/such": stat /no/such: no such file or directory',
    ),
    "not-executable": (
        process(args=["/bin/unexecutable"]),
        'exec: "/bin/unexecutable": permission denied',
    ),
    "not-executable-in-path": (process(args=["unexecutable"]), "not found in $PATH"),
    "foreign": (process(args=["foreign"]), "exec /bin/foreign: exec format error"),
    "text": (process(args=["/bin/text"]), "exec /bin/text: exec format error"),
    "interpreter-missing": (
        process(args=["no-interpreter"]),
        "exec /bin/no-interpreter: no such file or directory",
    ),
    "directory-is-file": (process(cwd="/etc/passwd"), "mkdir /etc/passwd: not a directory"),
    "directory-relative": (process(cwd="etc"), ""),
    "no-arguments": (process(args=[]), "args must not be empty"),
    "environment": (process(env=["nope"]), 'invalid environment variable: "nope"'),
    "limit-unknown": (
        process(rlimits=[{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]),
        "wrong rlimit value: RLIMIT_FOO",
    ),
    "source-missing": (
        mounts(mount("/x", "bind", "/nope", "rbind")),
        'error mounting "/nope" to rootfs at "/x": ',
    ),
    "file-system-unknown": (
        mounts(mount("/x", "nosuchfs", "none")),
        'error mounting "none" to rootfs at "/x": ',
    ),
    "option-unknown": (mounts(mount("/x", "tmpfs", "tmpfs", "foo=bar")), ""),
    "option-wrong": (mounts(mount("/x", "tmpfs", "tmpfs", "size=banana")), ""),
    "inside-proc": (
        mounts(mount("/proc/foo", "bind", "/usr", "rbind")),
        "cannot be mounted because it is inside /proc",
    ),
    "on-proc": (mounts(mount("/proc", "bind", "/usr", "rbind")), "it is not of type proc"),
    "inside-proc-by-link": (
        mounts(mount("/to-proc/sys", "bind", "/usr", "rbind")),
        "cannot be mounted because it is inside /proc",
    ),
    "inside-proc-by-links-to-nothing": (
        mounts(mount("/to-nothing", "bind", "/usr", "rbind")),
        "cannot be mounted because it is inside /proc",
    ),
    "on-proc-by-link": (mounts(mount("/to-proc", "bind", "/usr", "rbind")), "not of type proc"),
    "on-proc-by-dots": (
        mounts(mount("/tmp/.././/to-proc/", "bind", "/usr", "rbind")),
        "not of type proc",
    ),
    "proc-at-link": (mounts(mount("/to-proc", "proc", "proc")), "ordinary directory"),
    "directory-on-file": (mounts(mount("/etc/passwd", "bind", "/usr", "rbind")), ""),
    "file-on-directory": (mounts(mount("/tmp", "bind", "/etc/hostname", "bind")), ""),
    "sysctl": (
        linux(sysctl={"kernel.sched_rt_runtime_us": "1"}),
        'sysctl "kernel.sched_rt_runtime_us" is not in a separate kernel namespace',
    ),
    "propagation": (
        linux(rootfsPropagation="bogus"),
        "rootfsPropagation=bogus is not supported",
    ),
    "hook-missing": (
        lambda spec: spec.update(hooks={"createContainer": [{"path": "/no/hook"}]}),
        "/no/hook: no such file or directory",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_errors_are_in_the_words_of_runc(sides: Sides, name: str) -> None:
    change, words = ERRORS[name]
    ours, theirs = await sides.outcomes(["true"], change, prepare_programs)
    theirs = theirs.replace('\\"', '"')
    words = words or theirs.rsplit(":", 1)[1].strip().rstrip('"')
    assert theirs.startswith("exit 1\n")
    assert words in theirs
    assert words.lower() in ours.lower()
    reasons = r"(no such (?:file or directory|device)|invalid argument|not a directory)\"?$"
    if found := re.search(reasons, theirs):
        assert ours.endswith(found[1])
