"""The same specification under runc and under the agent: what the program sees must be the same."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from containers import DEFAULT_CAPABILITIES, MASKED, READONLY, Guest, make_process, make_spec

from kata_api.agent import oci_pb2 as oci

pytestmark = pytest.mark.linux

# The names of the kernel's files vary with nothing but what the two runtimes have set up.
PROBES = {
    "identity": "cat /proc/self/status | grep -E '^(Uid|Gid|Groups|Cap|NoNew|Umask|SigBlk)'",
    "limits": "cat /proc/self/limits",
    "environment": "env",
    # Masks are bounded as by runc since 1.2; the distribution's may be older.
    "mounts": "cut -d' ' -f1-4 /proc/mounts | busybox sed s/,size=4k,nr_inodes=1//",
    "devices": "cd /dev; stat -c '%n %A %u %g %t:%T %N' *",
    "directories": "stat -c '%n %A %u:%g' / /dev /dev/pts /dev/shm /proc /sys /run /made /made/cwd",
    "masked": "for p in /proc/kcore /proc/keys /sys/firmware /proc/timer_list; do stat -c '%n %F' $p; done",
    "descriptors": "for f in 0 1 2; do stat -L -c '%F %u' /proc/self/fd/$f; done",
    "directory": "pwd; hostname > /dev/null",
}


async def _run(*argv: str, cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def as_json(spec: oci.Spec) -> dict[str, Any]:
    """The part of a specification that these tests use, as config.json spells it."""
    process, linux = spec.Process, spec.Linux
    names = ("bounding", "effective", "inheritable", "permitted", "ambient")
    return {
        "ociVersion": spec.Version,
        "root": {"path": spec.Root.Path, "readonly": spec.Root.Readonly},
        "mounts": [
            {
                "destination": mount.destination,
                "type": mount.type,
                "source": mount.source,
                "options": list(mount.options),
            }
            for mount in spec.Mounts
        ],
        "process": {
            "args": list(process.Args),
            "env": list(process.Env),
            "cwd": process.Cwd,
            "user": {
                "uid": process.User.UID,
                "gid": process.User.GID,
                "additionalGids": list(process.User.AdditionalGids),
            },
            "noNewPrivileges": process.NoNewPrivileges,
            "capabilities": {
                name: list(getattr(process.Capabilities, name.capitalize())) for name in names
            },
            "rlimits": [
                {"type": limit.Type, "soft": limit.Soft, "hard": limit.Hard}
                for limit in process.Rlimits
            ],
        },
        "linux": {
            "namespaces": [{"type": namespace.Type} for namespace in linux.Namespaces],
            "maskedPaths": list(linux.MaskedPaths),
            "readonlyPaths": list(linux.ReadonlyPaths),
        },
    }


def build(root: str, command: str, user: oci.User, *, readonly: bool) -> oci.Spec:
    process = make_process(
        "sh", "-c", command, User=user, Cwd="/made/cwd", Env=["PATH=/bin", "X=1", "HOME="]
    )
    if user.UID:
        every = DEFAULT_CAPABILITIES[:3]
        for field in ("Inheritable", "Ambient", "Permitted", "Effective"):
            process.Capabilities.ClearField(field)
            getattr(process.Capabilities, field).extend(every)
    spec = make_spec(root, process)
    spec.Root.Readonly = readonly
    assert (list(spec.Linux.MaskedPaths), list(spec.Linux.ReadonlyPaths)) == (MASKED, READONLY)
    return spec


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("user", "readonly"),
    [
        (oci.User(), False),
        (oci.User(UID=1000, GID=1000, AdditionalGids=[5, 77]), True),
    ],
    ids=["root", "user-readonly"],
)
async def test_same_view(
    guest: Guest, runc: str, tmp_path: Path, probe: str, user: oci.User, *, readonly: bool
) -> None:
    views = []
    for runtime in ("ours", "runc"):
        spec = build(guest.new_rootfs(), PROBES[probe], user, readonly=readonly)
        if runtime == "ours":
            code, out, err = await guest.run_spec(spec)
            out += err
        else:
            bundle = tmp_path / "bundle"
            bundle.mkdir()
            (bundle / "config.json").write_text(json.dumps(as_json(spec)))
            state = f"--root={tmp_path}/state"
            # One pipe for both streams would change nothing but the order: runc has its own.
            code, out = await _run(runc, state, "run", f"t{os.getpid()}", cwd=bundle)
        views.append((code, sorted(out.splitlines())))
    assert views[0] == views[1]
    assert views[0][0] == 0
