"""`-info`: what this runtime is and what its guests can do, for containerd 2.x.

The features are those of the specification's features.md. They are facts of the guest's agent, which
the host may not import; a test compares each list with the agent's own tables.
"""

import json
import sys
from typing import Any, Final

from kata import __version__
from kata_api.any import FEATURES_URL, pack_json
from kata_api.containerd.types_pb2 import RuntimeInfo, RuntimeVersion

RUNTIME_NAME: Final = "io.containerd.kata.v2"

HOOKS: Final = (
    *("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
)

MOUNT_OPTIONS: Final = (
    *("acl", "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec"),
    *("iversion", "lazytime", "loud", "mand", "noacl", "noatime", "nodev", "nodiratime"),
    *("noexec", "noiversion"),
    *("nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private"),
    *("ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "rnoatime", "rnodev"),
    *("rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro"),
    *("rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid"),
    *("rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid"),
    *("symfollow", "sync", "tmpcopyup", "unbindable"),
)

NAMESPACES: Final = ("cgroup", "ipc", "mount", "network", "pid", "time", "uts")

CAPABILITIES: Final = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID"),
        *("SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST"),
        *("NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO"),
        *("SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
        *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE"),
        *("AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM"),
        *("BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
    )
)

SECCOMP_ACTIONS: Final = tuple(
    f"SCMP_ACT_{name}"
    for name in (
        *("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "TRACE", "TRAP"),
    )
)
SECCOMP_OPERATORS: Final = tuple(
    f"SCMP_CMP_{name}" for name in ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
)
# Those of the byte order of the machines we run on: one filter cannot hold both.
SECCOMP_ARCHITECTURES: Final = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        *("AARCH64", "ARM", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC64LE", "RISCV64", "X32"),
        *("X86", "X86_64"),
    )
)
SECCOMP_FLAGS: Final = tuple(
    f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC")
)


def features() -> dict[str, Any]:
    """Return the structure of features.md."""
    absent = {"enabled": False}
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": CAPABILITIES,
            # The guest's: it has the unified hierarchy, and no systemd to ask.
            "cgroup": {
                "v1": False,
                "v2": True,
                "systemd": False,
                "systemdUser": False,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": SECCOMP_ACTIONS,
                "operators": SECCOMP_OPERATORS,
                "archs": SECCOMP_ARCHITECTURES,
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS,
            },
            "apparmor": absent,
            "selinux": absent,
            "intelRdt": absent,
            "mountExtensions": {"idmap": absent},
            "netDevices": absent,
        },
        # A name that ends with a dot stands for all that begin with it.
        "potentiallyUnsafeConfigAnnotations": ["io.katacontainers.config."],
    }


def info() -> None:
    """Write `containerd.types.RuntimeInfo` to standard output."""
    message = RuntimeInfo(
        name=RUNTIME_NAME,
        version=RuntimeVersion(version=__version__),
        features=pack_json(FEATURES_URL, json.dumps(features()).encode()),
    )
    sys.stdout.buffer.write(message.SerializeToString())
    sys.stdout.flush()
