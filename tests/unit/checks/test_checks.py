"""Findings about a host, from files as other hosts have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kata.checks import Level, checks, containerd, host, installation
from kata.checks.program import ProgramError, first_line, virtiofsd_version
from kata.cli.ctl import app
from kata.config import Configuration, load
from kata.image import manifest
from kata.image.digests import sha256_of_file
from kata.image.manifest import FileRecord, KernelRecord, Manifest, ProtobufRecord, PythonRecord

pytestmark = pytest.mark.unit

INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse\n"


def program(path: Path, *said: str, status: int = 0) -> Path:
    lines = "\n".join(f"echo '{line}'" for line in said)
    path.write_text(f"#!/bin/sh\n{lines}\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def installed(tmp_path: Path) -> Configuration:
    """A configuration all of whose parts are there."""
    qemu = program(tmp_path / "qemu", "QEMU emulator version 9.9", "Copyright")
    daemon = program(tmp_path / "virtiofsd", "virtiofsd 1.13.2")
    (tmp_path / manifest.KERNEL).write_bytes(b"\x7fELF" + b"k" * 100)
    (tmp_path / manifest.INITRD).write_bytes(b"070701")
    described = Manifest(
        schema=manifest.SCHEMA,
        inputs="",
        distribution="debian bookworm",
        architecture="amd64",
        kernel=KernelRecord("6.1.0", ()),
        python=PythonRecord("3.11", ()),
        agent="",
        protobuf=ProtobufRecord("6", {}),
        packages=(),
        files={
            name: FileRecord(os.path.getsize(tmp_path / name), sha256_of_file(str(tmp_path / name)))
            for name in (manifest.KERNEL, manifest.INITRD)
        },
    )
    (tmp_path / manifest.MANIFEST).write_bytes(described.encode())
    base = tmp_path / "configuration.toml"
    base.write_text(
        f'[hypervisor.qemu]\npath = "{qemu}"\nvirtio_fs_daemon = "{daemon}"\n'
        f'kernel = "{tmp_path / manifest.KERNEL}"\ninitrd = "{tmp_path / manifest.INITRD}"\n'
    )
    return load(str(base))


def test_an_installation_that_is_whole_is_ok(installed: Configuration) -> None:
    found = list(installation.checks(installed))
    assert [each.level for each in found] == [Level.OK] * 5, found
    told = {each.check: each.found for each in found}
    assert told["qemu"].endswith("qemu: QEMU emulator version 9.9")
    assert told["virtiofsd"].endswith("virtiofsd 1.13.2 (the one in Rust)")
    assert told["guest image"] == "as built: debian bookworm, Linux 6.1.0"


def test_each_part_that_is_missing_fails_and_names_its_key(installed: Configuration) -> None:
    settings = installed.hypervisor
    for path in (settings.path, settings.virtio_fs_daemon, settings.kernel, settings.initrd):
        os.unlink(path)
    found = {each.check: each for each in installation.checks(installed)}
    assert {each.level for each in found.values()} == {Level.FAIL}
    for check, key, line in (
        ("qemu", "path", 2),
        ("virtiofsd", "virtio_fs_daemon", 3),
        ("guest kernel", "kernel", 4),
        ("guest initrd", "initrd", 5),
    ):
        assert f"`{key}` in [hypervisor.qemu]" in found[check].remedy
        assert f"{installed.path}:{line}" in found[check].remedy


def test_an_image_that_has_changed_fails_and_one_unknown_warns(installed: Configuration) -> None:
    with open(installed.hypervisor.initrd, "ab") as file:
        file.write(b"x")
    assert installation.image(installed).level == Level.FAIL
    os.unlink(os.path.join(os.path.dirname(installed.hypervisor.initrd), manifest.MANIFEST))
    assert installation.image(installed).level == Level.WARN


def test_a_compressed_kernel_warns(installed: Configuration) -> None:
    Path(installed.hypervisor.kernel).write_bytes(b"MZ" + b"\0" * 600)
    assert installation.kernel(installed).level == Level.WARN


def test_programs_that_do_not_run_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="is missing"):
        first_line(str(tmp_path / "none"))
    (tmp_path / "plain").write_text("no program")
    with pytest.raises(ProgramError, match="cannot be executed: Permission denied"):
        first_line(str(tmp_path / "plain"))
    failing = program(tmp_path / "failing", "libfoo is missing", status=127)
    with pytest.raises(ProgramError, match="status 127: libfoo"):
        first_line(str(failing))
    old = program(tmp_path / "old", "virtiofsd version 7.2", "using FUSE kernel interface 7.36")
    assert virtiofsd_version(str(old)) == ("virtiofsd version 7.2", "C")


def test_missing_virtualisation_warns_with_the_reason(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(INTEL)
    found = host.virtualisation(str(tmp_path / "kvm"), str(cpuinfo))
    assert found.level == Level.WARN
    assert f"{tmp_path}/kvm: No such file or directory" in found.found
    assert "modprobe kvm_intel" in found.remedy
    (tmp_path / "kvm").write_text("")  # opens, and makes no virtual machine
    found = host.virtualisation(str(tmp_path / "kvm"), str(cpuinfo))
    assert "cannot create a virtual machine" in found.found


def test_missing_vhost_devices_warn(tmp_path: Path) -> None:
    for check in (host.vsock, host.vhost_net):
        found = check(str(tmp_path / "none"))
        assert found.level == Level.WARN
        assert "modprobe" in found.remedy


@pytest.mark.parametrize(
    ("mounts", "mode", "level"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "v2", Level.OK),
        ("c /c/cpu cgroup rw,cpu,cpuacct 0 0\nc /c/m cgroup rw,memory 0 0\n", "v1", Level.WARN),
        (
            "c /c/a cgroup rw,cpu,memory,pids 0 0\nc /c/u cgroup2 rw 0 0\n",
            "hybrid",
            Level.OK,
        ),
        ("proc /proc proc rw 0 0\n", "none", Level.FAIL),
    ],
)
def test_cgroups(tmp_path: Path, mounts: str, mode: str, level: Level) -> None:
    (tmp_path / "mounts").write_text(mounts)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert host.cgroup_mode(str(tmp_path / "mounts")) == mode
    found = host.cgroups(str(tmp_path / "mounts"), str(tmp_path))
    assert found.level == level
    assert bool(found.remedy) == (level != Level.OK)


@pytest.mark.parametrize(
    ("total", "available", "level"),
    [(8000, 4000, Level.OK), (8000, 1000, Level.WARN), (1500, 1000, Level.FAIL)],
)
def test_memory(
    installed: Configuration, tmp_path: Path, total: int, available: int, level: Level
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {total * 1024} kB\nMemAvailable: {available * 1024} kB\n")
    found = host.memory(installed, str(meminfo))
    assert found.level == level
    assert "a guest has 2048 MiB" in found.found


def test_runtimes_are_found_at_any_depth_and_in_imports(tmp_path: Path) -> None:
    base = tmp_path / "config.toml"
    base.write_text(
        'version = 3\nimports = ["conf.d/*.toml"]\n'
        "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]\n"
        'runtime_type = "io.containerd.kata.v2"\n'
        "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n"
        'runtime_type = "io.containerd.runc.v2"\n'
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text(
        '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-debug]\n'
        'runtime_type = "io.containerd.kata-qemu.v2"\n'
    )
    assert containerd.runtimes(str(base)) == {"kata", "kata-debug"}
    assert containerd.registration(str(base)).level == Level.OK
    base.write_text("version = 3\n")
    assert "pods cannot" in containerd.registration(str(base)).found
    base.write_text("version = \n")
    assert containerd.registration(str(base)).level == Level.WARN
    assert containerd.registration(str(tmp_path / "none")).level == Level.WARN


def test_all_checks_have_a_remedy_unless_all_is_well(installed: Configuration) -> None:
    found = list(checks(installed.path))
    assert len({each.check for each in found}) == len(found)
    assert all(each.remedy for each in found if each.level != Level.OK), found
    assert not [each for each in found if each.level == Level.FAIL], found


def test_warnings_fail_only_where_that_is_asked_for(installed: Configuration) -> None:
    (warned,) = {any(each.level == Level.WARN for each in checks(installed.path))}
    runner = CliRunner()
    for words, status in (([], 0), (["--strict"], 1 if warned else 0)):
        done = runner.invoke(app, ["check", "--config", installed.path, *words])
        assert done.exit_code == status, done.output
        assert "containers can run here" in done.output
