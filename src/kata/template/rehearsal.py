"""The life of a container, played once in a guest that is about to be saved.

Its clones find loaded, and already in the guest's memory, what their network and first container need:
modules of the agent, of the kernel, the controllers of cgroups.  Nothing of the container is left.
"""

import json
from contextlib import suppress
from signal import SIGKILL

from kata.agent_client.agent import Agent, GuestStorage
from kata_api import oci
from ttrpc import RpcError

_NAME = "rehearsal"
_ROOT = f"/run/kata-containers/{_NAME}"
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
    ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "ro"]),
)
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


def _spec() -> dict[str, object]:
    return {
        "ociVersion": "1.0.2",
        "process": _process("cat"),
        "root": {"path": _ROOT},
        "hostname": _NAME,
        "mounts": [
            {"destination": where, "type": kind, "source": source, "options": options}
            for where, kind, source, options in _MOUNTS
        ],
        "linux": {
            "cgroupsPath": f"/{_NAME}",
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/bus"],
            # For the sake of libseccomp, which the first profile loads.
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}],
            },
        },
    }


async def rehearse(agent: Agent, kernel_modules: tuple[str, ...]) -> None:
    """Load modules of the guest's kernel, and take a network and a container through their lives.

    Raises `RpcError`.
    """
    directory = GuestStorage("local", "", "", _ROOT)
    await agent.create_sandbox("", "", [directory], kernel_modules)
    await agent.update_routes((), ())
    spec = oci.decode_spec(json.dumps(_spec()).encode())
    await agent.create_container(_NAME, spec, _TIMEOUT)
    await agent.start_container(_NAME)
    for exec_id, process in (
        ("plain", _process("true")),
        ("terminal", _process("true", terminal=True)),
    ):
        decoded = oci.decode_process(json.dumps(process).encode())
        await agent.exec_process(_NAME, exec_id, decoded)
        await _end(agent, exec_id)
    await agent.write_stdin(_NAME, _NAME, b"\n")
    await agent.close_stdin(_NAME, _NAME)
    await _end(agent, _NAME)
    with suppress(RpcError):  # it has ended, if all went well
        await agent.signal_process(_NAME, "", SIGKILL)
    await agent.remove_container(_NAME, _TIMEOUT)


async def _end(agent: Agent, exec_id: str) -> None:
    while await agent.read_stdout(_NAME, exec_id, 4096):
        pass
    await agent.wait_process(_NAME, exec_id)
