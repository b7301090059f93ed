"""Checks of what the configuration names: QEMU, virtiofsd, and the guest's kernel and image."""

import os
from collections.abc import Iterator

from kata.checks.finding import Finding, Level
from kata.checks.program import ProgramError, first_line, virtiofsd_version
from kata.config import Configuration
from kata.image import manifest
from kata.image.errors import ImageError

_ELF = b"\x7fELF"
_BUILD = "build the guest with `kata-ctl image build`"


def checks(configuration: Configuration) -> Iterator[Finding]:
    """Yield a finding for each part; the last one reads the whole image."""
    yield qemu(configuration)
    yield virtiofsd(configuration)
    yield kernel(configuration)
    yield initrd(configuration)
    yield image(configuration)


def configuration(found: Configuration) -> Finding:
    """Tell which file is used; that it can be is known when there is a configuration."""
    files = {origin.file for _, _, origin in found.effective() if origin.kind == "drop-in"}
    added = f", with drop-ins {', '.join(sorted(map(str, files)))}" if files else ""
    return Finding("configuration", Level.OK, found.path + added)


def qemu(configuration: Configuration) -> Finding:
    """Check that QEMU runs."""
    path = configuration.hypervisor.path
    try:
        return Finding("qemu", Level.OK, f"{path}: {first_line(path)}")
    except ProgramError as error:
        return Finding("qemu", Level.FAIL, str(error), _name(configuration, "path", "install QEMU"))


def virtiofsd(configuration: Configuration) -> Finding:
    """Check that virtiofsd runs, if it is what shares files."""
    settings = configuration.hypervisor
    if settings.shared_fs != "virtio-fs":
        return Finding("virtiofsd", Level.OK, f'not needed: shared_fs = "{settings.shared_fs}"')
    path = settings.virtio_fs_daemon
    try:
        version, flavour = virtiofsd_version(path)
    except ProgramError as error:
        remedy = _name(configuration, "virtio_fs_daemon", "install virtiofsd")
        return Finding(
            "virtiofsd", Level.FAIL, str(error), f'{remedy}, or set shared_fs = "virtio-9p"'
        )
    return Finding("virtiofsd", Level.OK, f"{path}: {version} (the one in {flavour})")


def kernel(configuration: Configuration) -> Finding:
    """Check that the guest's kernel is there, and uncompressed."""
    path = configuration.hypervisor.kernel
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        size = os.path.getsize(path)
    except OSError as error:
        remedy = _name(configuration, "kernel", _BUILD)
        return Finding("guest kernel", Level.FAIL, f"{path}: {error.strerror}", remedy)
    told = f"{path}, {_mib(size)}"
    if magic == _ELF:
        return Finding("guest kernel", Level.OK, told)
    return Finding(
        "guest kernel",
        Level.WARN,
        f"{told}, is no ELF file: a compressed kernel takes seconds more to boot under emulation",
        f"set it to an uncompressed vmlinux, or {_BUILD}",
    )


def initrd(configuration: Configuration) -> Finding:
    """Check that the guest's root is there."""
    path = configuration.hypervisor.initrd
    try:
        with open(path, "rb") as file:
            file.read(1)
        return Finding("guest initrd", Level.OK, f"{path}, {_mib(os.path.getsize(path))}")
    except OSError as error:
        remedy = _name(configuration, "initrd", _BUILD)
        return Finding("guest initrd", Level.FAIL, f"{path}: {error.strerror}", remedy)


def image(configuration: Configuration) -> Finding:
    """Compare the image with the manifest beside it."""
    settings = configuration.hypervisor
    folder = os.path.dirname(settings.initrd)
    if not os.path.exists(os.path.join(folder, manifest.MANIFEST)):
        return Finding(
            "guest image",
            Level.WARN,
            f"{folder} has no {manifest.MANIFEST}, so the image cannot be verified",
            _BUILD,
        )
    try:
        described = manifest.read(folder)
        wrong = manifest.differences(folder, described)
    except (ImageError, OSError) as error:
        return Finding("guest image", Level.FAIL, str(error), _BUILD)
    if wrong:
        return Finding("guest image", Level.FAIL, "; ".join(wrong), f"{_BUILD} again")
    told = f"as built: {described.distribution}, Linux {described.kernel.release}"
    return Finding("guest image", Level.OK, told)


def _name(configuration: Configuration, key: str, first: str) -> str:
    where = configuration.origins.where(f"hypervisor.qemu.{key}")
    return f"{first}, or set `{key}` in [hypervisor.qemu] to where it is (now: {where})"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
