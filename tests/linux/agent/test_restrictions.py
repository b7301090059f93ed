"""Seccomp profiles and device rules: the same attempts, under runc and under the agent."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from containers import Guest, make_process, make_spec
from lab import pod_cgroup
from test_against_runc import _run, as_json

from kata.agent_client import to_agent
from kata_agent import libseccomp, seccomp
from kata_api import oci as types
from kata_api.agent import oci_pb2 as oci
from ttrpc import RpcError, StatusCode

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the calls are those of x86_64"),
]

PROBE = Path(__file__).with_name("restrictions_probe.py")
# The probe's Python, from the host: these folders make its programs and libraries.
_HOST = ("/usr", "/lib", "/lib64")
X32 = 1 << 30

# Numbers of x86_64. The filters leave alone what runc still does under them.
MKDIR, PERSONALITY, SETHOSTNAME, UNSHARE, GETPID, GETPGRP, GETPRIORITY, PRIORITY_MAX = (
    83, 135, 170, 272, 39, 111, 140, 146,
)  # fmt: skip
CALLS = [
    [MKDIR, 0, 0],
    [PERSONALITY, 0xFFFFFFFF],
    [PERSONALITY, 8],
    [PERSONALITY, 0],
    [SETHOSTNAME, 0, 0],
    [UNSHARE, 0x10000000],  # CLONE_NEWUSER
    [UNSHARE, 0],
    [GETPID],
    [GETPGRP],
    [GETPRIORITY, 0, 0],
    [PRIORITY_MAX, 1],
    [447, 0],  # memfd_secret: known to libseccomp 2.5, in no profile here
    [470],  # newer than every profile
    [X32 | GETPID],
    [X32 | MKDIR, 0, 0],
    [X32 | 600],
]


def rule(action: str, *names: str, args: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    return {"names": list(names), "action": f"SCMP_ACT_{action}", "args": args or [], **more}


def argument(index: int, op: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}


@functools.cache
def every_call_but(*left_out: str) -> list[str]:
    """Name all calls that Python and the C library may want, of those that libseccomp knows."""
    library = libseccomp._library()
    library.seccomp_syscall_resolve_num_arch.restype = libseccomp.ctypes.c_char_p
    names = [library.seccomp_syscall_resolve_num_arch(0xC000003E, n) for n in range(440)]
    return [name.decode() for name in names if name and name.decode() not in left_out]


def permissive() -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            rule("ERRNO", "mkdir", "mkdirat", "no_such_call", errnoRet=13),
            rule("ERRNO", "personality", args=[argument(0, "EQ", 8)]),
            # Two conditions on one argument: either is enough.
            rule("ERRNO", "personality", args=[argument(0, "EQ", 0), argument(0, "GT", 1 << 40)]),
            rule("KILL_PROCESS", "sethostname"),
            rule("ERRNO", "unshare", args=[argument(0, "MASKED_EQ", 0x10000000, 0x10000000)]),
            rule("TRAP", "getpgrp"),
            rule("TRACE", "getpriority"),
            rule("LOG", "sched_get_priority_max"),
            rule("ALLOW", "getpid"),  # what the default does anyway
        ],
    }


def restrictive() -> dict[str, Any]:
    allowed = every_call_but("mkdir", "personality", "sched_get_priority_max", "getpgrp", "unshare")
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            *(rule("ALLOW", name) for name in allowed),  # more than 32 rules: a tree
            rule("ALLOW", "personality", args=[argument(0, "EQ", 0)]),
            rule("KILL", "sched_get_priority_max"),
        ],
    }


def flagged() -> dict[str, Any]:
    names = every_call_but("mkdir", "getpgrp")
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": [f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC")],
        "syscalls": [rule("ALLOW", *names)],
    }


def bare() -> dict[str, Any]:
    """No architectures: no guess at what is newer than the profile."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [rule("ALLOW", *every_call_but("mkdir", "getpgrp"))],
    }


PROFILES = {
    "permissive": permissive,
    "restrictive": restrictive,
    "flagged": flagged,
    "bare": bare,
}


class Runtimes:
    """One specification, run under both."""

    def __init__(self, guest: Guest, runc: str, folder: Path) -> None:
        self._guest, self.runc, self._folder = guest, runc, folder

    def spec(self, wanted: dict[str, Any], process: oci.Process) -> oci.Spec:
        root = self._guest.new_rootfs()
        os.makedirs(f"{root}/probe")
        process.Args[:] = [sys.executable, "-I", "/probe/probe.py", json.dumps(wanted)]
        process.Args[0] = os.path.realpath(sys.executable)
        spec = make_spec(root, process)
        for path in _HOST:
            if os.path.isdir(path):
                options = ["rbind", "ro"]
                spec.Mounts.add(destination=path, type="bind", source=path, options=options)
        spec.Mounts.add(
            destination="/probe/probe.py", type="bind", source=str(PROBE), options=["bind", "ro"]
        )
        return spec

    async def both(
        self,
        wanted: dict[str, Any],
        linux: dict[str, Any],
        *,
        user: oci.User | None = None,
        no_new_privileges: bool = True,
    ) -> list[dict[str, Any]]:
        """Run the probe with parts of ``linux`` as config.json spells them; ours comes first."""
        process = make_process(User=user or oci.User(), NoNewPrivileges=no_new_privileges)
        spec = self.spec(wanted, process)
        parts = types.decode_spec(json.dumps({"ociVersion": "1.0.2", "linux": linux}).encode())
        spec.Linux.MergeFrom(to_agent.spec(parts).Linux)
        code, out, err = await self._guest.run_spec(spec)
        assert code == 0, out + err
        bundle = self._folder / "bundle"
        bundle.mkdir()
        document = as_json(self.spec(wanted, process))
        document["linux"] |= json.loads(json.dumps(linux))
        # runc 1.1 refuses flags, which change none of the outcomes.
        document["linux"].get("seccomp", {}).pop("flags", None)
        (bundle / "config.json").write_text(json.dumps(document))
        state = f"--root={self._folder}/state"
        code, said = await _run(self.runc, state, "run", f"t{os.getpid()}", cwd=bundle)
        assert code == 0, said
        return [json.loads(out), json.loads(said)]


@pytest.fixture
def runtimes(guest: Guest, runc: str, tmp_path: Path) -> Runtimes:
    return Runtimes(guest, runc, tmp_path)


@pytest.mark.parametrize("no_new_privileges", [True, False], ids=["nnp", "privs"])
@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("name", PROFILES)
async def test_a_profile_does_what_it_does_under_runc(
    runtimes: Runtimes, name: str, uid: int, *, no_new_privileges: bool
) -> None:
    profile = PROFILES[name]()
    ours, theirs = await runtimes.both(
        {"calls": CALLS},
        {"seccomp": profile},
        user=oci.User(UID=uid, GID=uid),
        no_new_privileges=no_new_privileges,
    )
    assert ours == theirs
    assert (ours["status"]["Seccomp"], ours["status"]["Seccomp_filters"]) == ("2", "1")
    # Calls that the profile is about were refused, so the comparison is one of something.
    assert len({*ours["calls"], "done"}) > 2


NODES = [["c", 1, 3], ["c", 240, 5], ["c", 240, 6], ["c", 241, 5], ["b", 240, 5], ["c", 10, 229]]


def devices(*lines: str) -> list[dict[str, Any]]:
    """Spell rules such as "+c 240:* rw" as config.json does."""
    rules = []
    for line in lines:
        kind, *rest = line[1:].split()
        found: dict[str, Any] = {"allow": line[0] == "+", "type": kind, "access": rest[-1]}
        if len(rest) == 2:
            numbers = zip(("major", "minor"), rest[0].split(":"), strict=True)
            found |= {name: int(number) for name, number in numbers if number != "*"}
        rules.append(found)
    return rules


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("-a rwm",),
        ("+a rwm",),
        ("-a rwm", "+c 240:5 r"),
        ("-a rwm", "+c 240:* rw", "+b *:5 w"),
        ("-a rwm", "+c 240:5 rw", "-c 240:5 w"),
        ("-a rwm", "+c 240:5 r", "+c 240:5 w"),
        ("-a rwm", "+c *:* rwm", "-c *:* w"),
        ("-a rwm", "+c 1:3 r", "-c *:* rw"),
        ("+a rwm", "-c 240:5 rwm", "-b 240:* r"),
        ("+a rwm", "-c 240:5 rw", "+c 240:5 r"),
        ("+c 240:5 rwm", "-a rwm", "+b 240:5 rw"),
    ],
    ids=" ".join,
)
async def test_device_rules_do_what_they_do_under_runc(
    runtimes: Runtimes, lines: tuple[str, ...]
) -> None:
    linux = {"resources": {"devices": devices(*lines)}}
    ours, theirs = await runtimes.both({"devices": NODES}, linux)
    if lines[:1] == ("+a rwm",) and pod_cgroup.is_unified():
        # What is denied a part of "rw" is denied "rw": so in cgroup v1, not in runc's filter for v2.
        assert all(
            mode["rw"] == "EPERM" for mode in ours["devices"] if "EPERM" in (mode["r"], mode["w"])
        )
        for mode in (*ours["devices"], *theirs["devices"]):
            del mode["rw"]
    assert ours["devices"] == theirs["devices"]
    assert set(ours["devices"][0].values()) == {"done"}  # null


async def test_device_nodes_are_made_as_under_runc(runtimes: Runtimes) -> None:
    nodes = [
        {"path": "/dev/odd", "type": "c", "major": 240, "minor": 5, "fileMode": 0o640},
        {"path": "/dev/deep/er/block", "type": "b", "major": 240, "minor": 7, "uid": 1, "gid": 2},
        {"path": "/dev/u", "type": "u", "major": 241, "minor": 0, "fileMode": 0o20600},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o666, "uid": 1000, "gid": 1000},
    ]
    wanted = {"nodes": [node["path"] for node in nodes] + ["/dev/deep"]}
    ours, theirs = await runtimes.both(wanted, {"devices": nodes})
    assert ours["nodes"] == theirs["nodes"]


async def test_an_exec_is_confined_as_its_container_is(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("sleep", "1000"))
    spec.Linux.Seccomp.DefaultAction = "SCMP_ACT_ALLOW"
    spec.Linux.Seccomp.Syscalls.add(
        Names=["mkdir", "mkdirat"], Action="SCMP_ACT_ERRNO", errnoret=99
    )
    name = await guest.create(spec)
    await guest.start(name)
    # A user without privileges, with and without no_new_privs, and root without CAP_SYS_ADMIN.
    users = [
        {"User": oci.User(UID=1000, GID=1000)},
        {"User": oci.User(UID=1000, GID=1000), "NoNewPrivileges": False},
        {"NoNewPrivileges": False, "Terminal": True},
    ]
    for index, fields in enumerate(users):
        script = "grep -E '^(Seccomp|CapEff|CapPrm):' /proc/self/status; mkdir /tmp/x"
        process = make_process("sh", "-c", script.replace("grep", "/bin/busybox grep"), **fields)
        await guest.execute(name, str(index), process)
        if fields.get("Terminal"):
            out = (await guest.read_all(name, str(index))).decode()
        else:
            _, out, err = await guest.collect(name, str(index))
            out += err
        assert "Seccomp:\t2" in out
        assert "can't create directory '/tmp/x': Cannot assign requested address" in out
        effective = next(line for line in out.splitlines() if line.startswith("CapEff"))
        assert not int(effective.split()[1], 16) >> 21 & 1


@pytest.mark.parametrize("no_new_privileges", [True, False], ids=["nnp", "privs"])
async def test_a_profile_need_not_allow_what_the_agent_does(
    guest: Guest, *, no_new_privileges: bool
) -> None:
    process = make_process("echo", "ran", NoNewPrivileges=no_new_privileges)
    spec = make_spec(guest.new_rootfs(), process)
    spec.Linux.Seccomp.DefaultAction = "SCMP_ACT_KILL_PROCESS"
    # What a static program of this C library does before its main, and echo after it.
    names = [
        *("execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64"),
        *("readlink", "readlinkat", "getrandom", "mprotect", "prctl", "getuid", "write"),
        *("exit_group",),
        *(() if no_new_privileges else ("capset",)),
    ]
    spec.Linux.Seccomp.Syscalls.add(Names=names, Action="SCMP_ACT_ALLOW")
    assert await guest.run_spec(spec) == (0, "ran\n", "")


@pytest.mark.parametrize("no_new_privileges", [True, False], ids=["nnp", "privs"])
async def test_hooks_of_the_container_are_confined_as_its_program_is(
    runtimes: Runtimes, guest: Guest, tmp_path: Path, *, no_new_privileges: bool
) -> None:
    """The same script says so twice; the program is under one filter still."""
    script = (
        "mkdir /tmp/x; while read -r name value; do case $name in Seccomp*:|CapEff:) "
        "echo $name $value;; esac; done < /proc/self/status"
    )
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [rule("ERRNO", "mkdir", "mkdirat", errnoRet=99)],
    }
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"({script}) >> /tmp/said 2>&1"]}
    said = []
    for side in ("ours", "theirs"):
        process = make_process(
            *("sh", "-c", f"cat /tmp/said; {script}"), NoNewPrivileges=no_new_privileges
        )
        spec = make_spec(guest.new_rootfs(), process)
        document = as_json(spec) | {"hooks": {"startContainer": [hook]}}
        document["linux"]["seccomp"] = profile
        text = json.dumps(document)
        if side == "ours":
            code, out, err = await guest.run_spec(to_agent.spec(types.decode_spec(text.encode())))
        else:
            (tmp_path / "config.json").write_text(text)
            arguments = (f"--root={tmp_path}/state", "run", f"h{os.getpid()}")
            code, out = await _run(runtimes.runc, *arguments, cwd=tmp_path)
            err = ""
        assert code == 0, out + err
        said.append(sorted((out + err).splitlines()))
    assert said[0] == said[1]
    assert said[0].count("Seccomp: 2") == 2
    assert said[0].count("Seccomp_filters: 1") == 2
    assert sum("Cannot assign requested address" in line for line in said[0]) == 2


async def test_a_forbidden_execve_is_the_error_of_start(guest: Guest) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("true"))
    spec.Linux.Seccomp.DefaultAction = "SCMP_ACT_ALLOW"
    spec.Linux.Seccomp.Syscalls.add(Names=["execve"], Action="SCMP_ACT_ERRNO")
    name = await guest.create(spec)
    with pytest.raises(RpcError, match="exec /bin/true: operation not permitted"):
        await guest.start(name)


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ({"DefaultAction": "ALLOW"}, "defaultAction: 'ALLOW' is none of SCMP_ACT_ALLOW, "),
        ({"Architectures": ["SCMP_ARCH_Z80"]}, r"architectures\[0\]: 'SCMP_ARCH_Z80' is none of"),
        ({"Architectures": ["SCMP_ARCH_S390X"]}, "calls of s390x on this machine"),
        ({"Flags": ["LOG"]}, r"flags\[0\]: 'LOG' is none of"),
        ({"Flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}, "need a listener"),
        ({"DefaultErrnoRet": 1}, "SCMP_ACT_ALLOW takes no errno"),
        ({"Syscalls": [("read", "SCMP_ACT_NOTIFY", ())]}, r"syscalls\[0\].action: SCMP_ACT_NOTIFY"),
        ({"Syscalls": [("", "SCMP_ACT_KILL", ())]}, r"syscalls\[0\].names"),
        (
            {"Syscalls": [("read", "SCMP_ACT_KILL", (6, "SCMP_CMP_EQ"))]},
            r"syscalls\[0\].args\[0\].index is 6",
        ),
        (
            {"Syscalls": [("read", "SCMP_ACT_KILL", (0, "EQ"))]},
            r"syscalls\[0\].args\[0\].op: 'EQ' is none of SCMP_CMP_NE",
        ),
    ],
)
def test_what_is_wrong_with_a_profile_is_named(profile: dict[str, Any], says: str) -> None:
    rules = [
        oci.LinuxSyscall(
            Names=[name],
            Action=action,
            Args=[oci.LinuxSeccompArg(Index=args[0], Op=args[1])] if args else [],
        )
        for name, action, args in profile.pop("Syscalls", [])
    ]
    fields = {"DefaultAction": "SCMP_ACT_ALLOW", "Syscalls": rules} | profile
    with pytest.raises(RpcError, match=says) as caught:
        seccomp.compile_profile(oci.LinuxSeccomp(**fields))
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (("-a rwm", "+c 240:* rw", "-c 240:5 w"), r"devices\[2\]: it cannot take c 240:5 out of"),
        (("+a rwm", "-c *:* rwm"), r"denies what every container needs: .*c 1:3"),
        (("+c 1:3 x",), r"devices\[0\]: access 'x'"),
    ],
)
async def test_what_is_wrong_with_device_rules_is_named(
    guest: Guest, lines: tuple[str, ...], says: str
) -> None:
    spec = make_spec(guest.new_rootfs(), make_process("true"))
    for entry in devices(*lines):
        spec.Linux.Resources.Devices.add(
            Allow=entry["allow"],
            Type=entry["type"],
            Major=entry.get("major", -1),
            Minor=entry.get("minor", -1),
            Access=entry["access"],
        )
    with pytest.raises(RpcError, match=says) as caught:
        await guest.create(spec)
    assert caught.value.code == StatusCode.INVALID_ARGUMENT
