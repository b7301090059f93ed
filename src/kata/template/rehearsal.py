"""The life of a container, played in a guest that is about to be saved, or that stands by.

A guest that is saved has loaded then, and in its memory, what the network and the first container of its
clones need: modules of the agent, of the kernel, the controllers of cgroups.  One that stands by has
also been through the code that they execute, which an emulator translates at the first time.  Nothing
of the container is left.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from signal import SIGKILL

from kata.agent_client.agent import Agent, GuestStorage
from kata_api import oci
from ttrpc import RpcError

NAME = "rehearsal"
"""The container's id."""

_ROOT = f"/run/kata-containers/{NAME}"
_TIMEOUT = 30.0
"""Seconds for one step, in a guest that does it for the first time."""

_MOUNTS = (
    ("/bin", "bind", "/bin", ["rbind", "ro"]),
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
    ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
    ("/run", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "ro"]),
)
_DEVICES = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 1, "access": "rwm"},
)
"""Together with what every container is allowed, these are the rules that containerd gives by default."""

_SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}],
}
"""For the sake of libseccomp, which the first profile loads."""

_FROM_ITS_ROOT = (
    "cp /bin/busybox /busybox && /busybox true; rm /busybox; cat /sys/kernel/boot_params/data"
)
"""Executes a file of the container's own root, /bin being the guest's, and says how the kernel booted."""

_CAPABILITIES = ("CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID")


def _process(*arguments: str, terminal: bool = False) -> dict[str, object]:
    return {
        "terminal": terminal,
        "cwd": "/",
        "args": ["/bin/busybox", *arguments],
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": True,
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
    }


def _spec(root: str, like: oci.Spec | None) -> dict[str, object]:
    confinement = json.loads(oci.encode(like)).get("linux", {}) if like else {}
    devices = confinement.get("resources", {}).get("devices", []) if like else _DEVICES
    return {
        "ociVersion": "1.0.2",
        "process": _process("cat"),
        "root": {"path": root},
        "hostname": NAME,
        "mounts": [
            {"destination": where, "type": kind, "source": source, "options": options}
            for where, kind, source, options in _MOUNTS
        ],
        "linux": {
            "cgroupsPath": f"/{NAME}",
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "resources": {"devices": devices, "cpu": {"shares": 1024}},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/bus"],
            "seccomp": confinement.get("seccomp") or _SECCOMP,
        },
    }


async def rehearse(
    agent: Agent,
    kernel_modules: Sequence[str] = (),
    share: GuestStorage | None = None,
    root: str = _ROOT,
    like: oci.Spec | None = None,
) -> bytes:
    """Load modules of the guest's kernel, and take a network and a container through their lives.

    The container has its root at `root`, a directory which the `share` brings, if there is one, and the
    confinement of one `like` it.  Returns the parameters that an x86 kernel was booted with, if they can be
    read.  Raises `RpcError`.
    """
    storage = share or GuestStorage("local", "", "", root)
    await agent.create_sandbox("", "", [storage], kernel_modules)
    await agent.update_routes((), ())
    spec = oci.decode_spec(json.dumps(_spec(root, like)).encode())
    await agent.create_container(NAME, spec, _TIMEOUT)
    await agent.start_container(NAME)
    said = {}
    for exec_id, process in (
        ("plain", _process("sh", "-c", _FROM_ITS_ROOT)),
        ("terminal", _process("true", terminal=True)),
    ):
        decoded = oci.decode_process(json.dumps(process).encode())
        await agent.exec_process(NAME, exec_id, decoded)
        said[exec_id] = await _end(agent, exec_id)
    await agent.write_stdin(NAME, NAME, b"\n")
    await agent.close_stdin(NAME, NAME)
    await _end(agent, NAME)
    with suppress(RpcError):  # it has ended, if all went well
        await agent.signal_process(NAME, "", SIGKILL)
    await agent.remove_container(NAME, _TIMEOUT)
    return said["plain"]


async def _end(agent: Agent, exec_id: str) -> bytes:
    """Wait for the end of a process; return what it has written."""
    said = b""
    while part := await agent.read_stdout(NAME, exec_id, 4096):
        said += part
    await agent.wait_process(NAME, exec_id)
    return said
