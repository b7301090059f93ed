"""The mounts of an OCI specification, as the guest must see them.

A bind mount of a host path goes through the share; everything else (proc, tmpfs, devpts, …) is
made by the agent from the guest's own kernel.
"""

import os

import msgspec

from kata.host import libc
from kata.storage.share import Share
from kata_api import oci


class VolumeError(Exception):
    """A mount that cannot be given to the guest; the text names it and says why."""


def translate(container_id: str, requested: tuple[oci.Mount, ...], share: Share) -> list[oci.Mount]:
    """Return the mounts for the guest; binds of host paths are added to `share`.

    Raises `VolumeError`; what was added until then goes with `share.remove(container_id)`.
    """
    return [
        _bind(container_id, number, mount, share) if is_bind(mount) else mount
        for number, mount in enumerate(requested)
    ]


def is_bind(mount: oci.Mount) -> bool:
    """Tell whether a mount shows another path, by its type or its options as runc does."""
    return mount.type in ("bind", "rbind") or any(o in ("bind", "rbind") for o in mount.options)


def _bind(container_id: str, number: int, mount: oci.Mount, share: Share) -> oci.Mount:
    try:
        # Opened once: what is looked at is what is mounted, whoever renames things meanwhile.
        descriptor = os.open(mount.source, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise VolumeError(
            f"cannot mount {mount.source} on {mount.destination}: the source does not exist"
        ) from error
    except OSError as error:
        raise _refused(mount, error) from error
    try:
        source = os.readlink(f"/proc/self/fd/{descriptor}")
        if source == "/dev" or source.startswith("/dev/"):
            return mount  # the guest has devices of its own; the host's mean nothing to its kernel
        for forbidden in ("/proc", "/sys"):
            if source == forbidden or source.startswith(forbidden + "/"):
                raise VolumeError(
                    f"cannot bind {mount.source} to {mount.destination}: {forbidden} belongs to "
                    "the host's kernel and the container has another; use the container's own"
                )
        name = f"{number:03d}-{os.path.basename(mount.destination.rstrip('/')) or 'root'}"
        path = share.add_bind(
            container_id,
            name,
            descriptor,
            recursive="bind" not in mount.options,
            read_only="ro" in mount.options,
            read_only_below="rro" in mount.options,
            propagation=_propagation(mount.options),
        )
    except OSError as error:
        raise _refused(mount, error) from error
    finally:
        os.close(descriptor)
    return msgspec.structs.replace(mount, source=path)


def _refused(mount: oci.Mount, error: OSError) -> VolumeError:
    return VolumeError(
        f"cannot mount {mount.source} on {mount.destination}: {error.strerror or error}"
    )


def _propagation(options: tuple[str, ...]) -> int:
    """Return how later mounts of the host reach the guest: not at all, or one way.

    The other way does not exist: a mount that the guest makes is one of its own kernel's.
    """
    wanted = {"slave", "rslave", "shared", "rshared"}
    return libc.MS_SLAVE if wanted.intersection(options) else libc.MS_PRIVATE
