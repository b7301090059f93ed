"""Versions and paths of everything that a sandbox on this host is made of."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from kata import __version__
from kata.checks import containerd, host
from kata.checks.program import ProgramError, first_line, virtiofsd_version
from kata.config import Configuration
from kata.hypervisor import accelerator
from kata.image import manifest
from kata.image.errors import ImageError

T = TypeVar("T")

Facts = dict[str, dict[str, Any]]


def environment(configuration: Configuration) -> Facts:
    """Return facts by section; what is not there is None."""
    return {
        "runtime": _runtime(configuration),
        "hypervisor": _hypervisor(configuration),
        "shared_fs": _shared_fs(configuration),
        "guest": _guest(configuration),
        "template": _template(configuration),
        "containerd": _containerd(),
        "host": _host(),
    }


def _runtime(configuration: Configuration) -> dict[str, Any]:
    files = {origin.file for _, _, origin in configuration.effective() if origin.kind == "drop-in"}
    return {
        "version": __version__,
        "shim": shutil.which(containerd.SHIM) or containerd.installed_shim(),
        "kata_ctl": os.path.realpath(sys.argv[0]),
        "python": f"{sys.executable} {platform.python_version()}",
        "configuration": configuration.path,
        "drop_ins": sorted(map(str, files)),
    }


def _hypervisor(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.hypervisor
    chosen = accelerator.choose()
    cpus = os.cpu_count() or 1
    return {
        "path": settings.path,
        "version": _told(lambda: first_line(settings.path)),
        "machine_type": settings.machine_type,
        "accelerator": chosen.name,
        "why_not_kvm": chosen.reason or None,
        "vcpus": settings.boot_vcpus(cpus),
        "max_vcpus": settings.ceiling_vcpus(cpus),
        "memory_mib": settings.default_memory,
        "agent_transport": "vsock" if os.path.exists("/dev/vhost-vsock") else "virtio-serial",
    }


def _shared_fs(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.hypervisor
    if settings.shared_fs != "virtio-fs":
        return {"kind": settings.shared_fs}
    found = _told(lambda: virtiofsd_version(settings.virtio_fs_daemon))
    return {
        "kind": settings.shared_fs,
        "path": settings.virtio_fs_daemon,
        "version": found[0] if found else None,
        "flavour": found[1] if found else None,
    }


def _guest(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.hypervisor
    facts: dict[str, Any] = {
        "kernel": settings.kernel,
        "kernel_release": None,
        "initrd": settings.initrd,
        "distribution": None,
        "python": None,
        "agent_sha256": None,
    }
    try:
        described = manifest.read(os.path.dirname(settings.initrd))
    except ImageError:
        return facts
    return facts | {
        "kernel_release": described.kernel.release,
        "distribution": described.distribution,
        "python": described.python.version,
        "agent_sha256": described.agent,
    }


def _template(configuration: Configuration) -> dict[str, Any]:
    from kata.template.key import Key
    from kata.template.store import Store

    settings = configuration.factory
    if not settings.enable_template:
        return {"enabled": False}
    try:
        name = Key.of(configuration).name
    except OSError:  # a file that goes into the key is missing
        return {"enabled": True, "path": settings.template_path, "name": None, "ready": False}
    ready = Store(settings.template_path).load(name) is not None
    return {"enabled": True, "path": settings.template_path, "name": name, "ready": ready}


def _containerd() -> dict[str, Any]:
    path = shutil.which("containerd")
    try:
        names = sorted(containerd.runtimes(containerd.CONFIGURATION))
    except (OSError, ValueError):
        names = []
    return {
        "path": path,
        "version": _told(lambda: first_line(path)) if path else None,
        "configuration": containerd.CONFIGURATION,
        "runtimes": names,
    }


def _host() -> dict[str, Any]:
    total, available = host.memory_mib()
    return {
        "distribution": _distribution(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_mib": total,
        "memory_available_mib": available,
        "cgroups": host.cgroup_mode(),
    }


def _told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except ProgramError:
        return None


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return None


def _processor() -> str | None:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None
