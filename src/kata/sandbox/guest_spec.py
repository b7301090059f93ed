"""A container's specification as the guest is to carry it out."""

import logging
from collections.abc import Mapping

import msgspec

from kata.sandbox.errors import InvalidRequestError, UnimplementedError
from kata.storage import block_volume, disk_rules, volumes
from kata.storage.share import Share
from kata.storage.volumes import Volumes
from kata_api import oci

_log = logging.getLogger(__name__)


def check(spec: oci.Spec, *, guest_seccomp: bool) -> None:
    """Refuse what cannot be done, before anything is started.

    Raises `InvalidRequestError` or `UnimplementedError`, which name the field and the remedy.
    """
    if spec.process is None or spec.root is None:
        raise InvalidRequestError("config.json has no process or no root; both are needed")
    linux = spec.linux or oci.Linux()
    if linux.uid_mappings or linux.gid_mappings:
        raise UnimplementedError(
            "user namespaces (linux.uidMappings) are not implemented in the guest; leave them out: "
            "root in the container is root of the guest only"
        )
    if spec.process.apparmor_profile or spec.process.selinux_label or linux.mount_label:
        _log.warning(
            "the AppArmor profile and SELinux labels of the container belong to the host's policy; "
            "the guest does not enforce them"
        )
    _check_fields(spec, linux, guest_seccomp=guest_seccomp)
    profile = linux.seccomp if guest_seccomp else None
    if profile and (profile.listener_path or profile.listener_metadata):
        raise UnimplementedError(
            "linux.seccomp.listenerPath and listenerMetadata: the guest's kernel cannot notify a "
            "listener on the host; use a profile without SCMP_ACT_NOTIFY"
        )


def _check_fields(spec: oci.Spec, linux: oci.Linux, *, guest_seccomp: bool) -> None:
    """Refuse fields that only the host's kernel could carry out; warn of what has no effect."""
    _refuse(
        {
            "linux.netDevices": (linux.net_devices, "devices of the host's kernel"),
            "linux.intelRdt": (linux.intel_rdt, "classes of the host's kernel"),
            "idmap and ridmap": (
                any({"idmap", "ridmap"}.intersection(mount.options) for mount in spec.mounts)
                or any(mount.uid_mappings or mount.gid_mappings for mount in spec.mounts),
                "the shared file system cannot map ids",
            ),
        }
    )
    resources = linux.resources or oci.LinuxResources()
    reason = "it has cgroup v2, which has no such limit"
    _refuse({name: (value, reason) for name, value in _version_1(resources).items()})
    found = unenforced(resources)
    if linux.seccomp and not guest_seccomp:
        found.append("linux.seccomp (disable_guest_seccomp is true)")
    if found:
        _log.warning("the guest does not enforce %s", ", ".join(found))


def confinement(spec: oci.Spec, *, guest_seccomp: bool) -> oci.Spec:
    """Return what the agent compiles of a specification, and has ready when it comes again."""
    linux = spec.linux or oci.Linux()
    devices = linux.resources.devices if linux.resources else ()
    return oci.Spec(
        oci_version=spec.oci_version,
        linux=oci.Linux(
            seccomp=linux.seccomp if guest_seccomp else None,
            resources=oci.LinuxResources(
                devices=disk_rules.for_guest(devices, (), nodes_of_none=False)
            ),
        ),
    )


def unenforced(resources: oci.LinuxResources) -> list[str]:
    """Return what of the limits the guest does not enforce, or may not, each with the reason."""
    cpu, memory = resources.cpu or oci.CPU(), resources.memory or oci.Memory()
    own = "the guest binds the container to its own of these numbers, if it has them all"
    version_2 = "cgroup v2 has no such limit"
    limits = {
        f"linux.resources.cpu.cpus ({own})": cpu.cpus,
        f"linux.resources.cpu.mems ({own})": cpu.mems,
        f"linux.resources.memory.kernel ({version_2})": memory.kernel,
        f"linux.resources.memory.kernelTCP ({version_2})": memory.kernel_tcp,
        f"linux.resources.memory.swappiness ({version_2})": memory.swappiness is not None,
        f"linux.resources.memory.disableOOMKiller ({version_2})": memory.disable_oom_killer,
        **{f"{name} ({version_2})": value for name, value in _version_1(resources).items()},
    }
    return [name for name, value in limits.items() if value]


def _version_1(resources: oci.LinuxResources) -> dict[str, object]:
    """Return limits by name that a container is not made without; runc has no v2 form of them."""
    cpu = resources.cpu or oci.CPU()
    return {
        "linux.resources.network": resources.network,
        "linux.resources.cpu.realtimeRuntime": cpu.realtime_runtime,
        "linux.resources.cpu.realtimePeriod": cpu.realtime_period,
    }


def _refuse(fields: Mapping[str, tuple[object, str]]) -> None:
    for name, (value, reason) in fields.items():
        if value:
            raise UnimplementedError(
                f"{name}: not possible in the guest ({reason}); leave it out of config.json"
            )


def build(
    container_id: str,
    spec: oci.Spec,
    root: str,
    share: Share,
    *,
    guest_seccomp: bool,
    standalone: bool = False,
) -> tuple[oci.Spec, Volumes]:
    """Return the specification for the guest, and what its mounts need; binds are added to `share`.

    The seccomp profile stays only with `guest_seccomp`; in a `standalone` pod, shared memory and the
    files with names are the guest's. Raises `InvalidRequestError`;
    `share.remove(container_id)` undoes what was added.
    """
    linux = spec.linux or oci.Linux()
    resources = linux.resources or oci.LinuxResources()
    try:
        wanted = volumes.translate(
            container_id,
            spec.mounts,
            share,
            standalone=standalone,
            read_only=bool(spec.root and spec.root.readonly),
            rules=resources.devices,
        )
    except volumes.VolumeError as error:
        raise InvalidRequestError(str(error)) from error
    devices = (*_devices(linux, wanted), *wanted.devices)
    built = msgspec.structs.replace(
        spec,
        root=msgspec.structs.replace(spec.root or oci.Root(path=root), path=root),
        mounts=tuple(wanted.mounts),
        linux=msgspec.structs.replace(
            linux,
            cgroups_path=cgroup_path(linux.cgroups_path, container_id),
            devices=devices,
            resources=_resources(resources, wanted) if linux.resources else None,
            seccomp=linux.seccomp if guest_seccomp else None,
        ),
    )
    return built, wanted


def _devices(linux: oci.Linux, wanted: Volumes) -> list[oci.Device]:
    """Return the listed devices that the guest gets; their disks are added to `wanted`."""
    rules = linux.resources.devices if linux.resources else ()
    nodes = block_volume.listed_nodes(linux.devices, rules)
    wanted.nodes += nodes
    plugged = {node.path for node in nodes}
    kept = [
        each
        for each in linux.devices
        if each.type != "b" or each.path in plugged or not block_volume.host_has(each)
    ]
    left_out = [each for each in linux.devices if each not in kept]
    if left_out:
        _log.warning(
            "the privileged container gets no disks of the host (%s); list one in volumeDevices to "
            "have it, or set privileged_without_host_devices for the runtime in containerd",
            ", ".join(device.path for device in left_out),
        )
    return kept


def _resources(resources: oci.LinuxResources, wanted: Volumes) -> oci.LinuxResources:
    """Return the limits with device rules that are about the guest's disks, and none of the host's."""
    numbers = {node.number for node in wanted.nodes}
    rules = disk_rules.for_guest(resources.devices, numbers, nodes_of_none=bool(wanted.closed))
    return msgspec.structs.replace(resources, devices=rules)


def shares_processes(spec: oci.Spec) -> bool:
    """Tell whether a container joins a pid namespace of the host: its pod's stands in for it."""
    linux = spec.linux or oci.Linux()
    return any(each.type == "pid" and each.path for each in linux.namespaces)


def cgroup_path(path: str, container_id: str) -> str:
    """Return a plain cgroup path; the guest has no systemd, whatever manages the host's cgroups."""
    if not path:
        return f"/{container_id}"
    parts = path.split(":")
    if len(parts) == 3:  # systemd's form: slice, prefix, name
        slice_, prefix, name = parts
        return f"/{slice_}/{prefix}-{name}.scope"
    return path if path.startswith("/") else f"/{path}"
