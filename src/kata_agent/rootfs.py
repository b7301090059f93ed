"""The file system of a container, built by its first process in a mount namespace of its own.

Everything is done before the pivot, through descriptors that are resolved inside the new root:
no path of an image can lead a mount, a device or a mask outside of it, and the trusted ``/proc``
and ``/dev`` of the guest are still at hand. The steps and their order follow the OCI runtime
specification, "config-linux.md", and what runc does where that is silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable

from kata_agent import mount_options
from kata_agent import syscalls as sc
from kata_agent.progress import Progress, StepError
from kata_api.agent.oci_pb2 import LinuxDevice, Mount, Spec

# path below /dev, major, minor (OCI "Default Devices"; Linux admin-guide/devices.txt)
_DEFAULT_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_SYMLINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)
_DEVICE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
# Flags of an existing mount that a read-only remount has to repeat; ST_* equal MS_* for these.
_KEPT_FLAGS = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
# What may cover a file below /proc: what lxcfs has better answers for, as runc allows it.
_COVERED_PROC = frozenset(
    {
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/net/dev",
        "/proc/slabinfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/sys/crypto/fips_enabled",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/uptime",
    }
)


_DOTS = str.maketrans("./", "/.")


def _by_fd(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


class RootFilesystem:
    """The root directory of a container under construction."""

    def __init__(self, spec: Spec, progress: Progress) -> None:
        self._spec = spec
        self._progress = progress
        self._fd = -1
        self._readonly_later: list[str] = []  # mounts that something has still to be made in

    @property
    def descriptor(self) -> int:
        """The open root directory."""
        return self._fd

    def build(self) -> None:
        """Mount and create everything the specification asks for, short of the console and pivot.

        Call it in a new mount namespace. Raises ``OSError`` or `StepError`; the namespace is then
        half built and is to be thrown away.
        """
        os.umask(0)  # modes given are modes meant; the program gets its own umask later
        self._bind_root()
        for mount in self._spec.Mounts:
            self._mount(mount)
        if not any(_place(m) == "/dev" and _is_bind(m) for m in self._spec.Mounts):
            self._populate_dev()
        if self._spec.Process.Cwd:
            self._progress.at("mkdir", self._spec.Process.Cwd)
            os.close(self._directory(self._spec.Process.Cwd))

    def open_terminal(self) -> tuple[int, int]:
        """Open a pseudo terminal of the container's own devpts, bound to /dev/console.

        Returns the descriptors (master, slave).
        """
        from kata_agent.terminal import open_pair

        self._progress.at("open terminal", "/dev/ptmx")
        master, slave, number = open_pair(
            lambda path, flags: sc.open_in_root(self._fd, path, flags)
        )
        self._progress.at("bind terminal", "/dev/console")
        source = sc.open_in_root(self._fd, f"/dev/pts/{number}", os.O_PATH)
        target = self._file("/dev/console")
        sc.mount(_by_fd(source), _by_fd(target), None, sc.MS_BIND)
        os.close(source)
        os.close(target)
        return master, slave

    def restrict(self) -> None:
        """Write sysctls, then make paths read-only, masked, and the root read-only as asked."""
        for destination in self._readonly_later:
            self._progress.at("make read-only", destination)
            target = sc.open_in_root(self._fd, destination, os.O_PATH)
            self._remount_readonly(target)
            os.close(target)
        for name, value in sorted(self._spec.Linux.Sysctl.items()):
            self._progress.at("set sysctl", name)
            with open(sysctl_path(name), "w", encoding="utf-8") as file:
                file.write(value)
        for path in self._spec.Linux.ReadonlyPaths:
            self._make_readonly(path)
        for path in self._spec.Linux.MaskedPaths:
            self._mask(path)
        if self._spec.Root.Readonly:
            self._progress.at("make root read-only")
            self._remount_readonly(self._fd)

    def pivot(self) -> None:
        """Make this the root of the process and detach the old one."""
        self._progress.at("pivot root", self._spec.Root.Path)
        old = os.open("/", os.O_PATH | os.O_DIRECTORY)
        os.fchdir(self._fd)
        sc.pivot_root(".", ".")
        os.fchdir(old)
        # A slave, so that the detach does not travel to the guest's own mounts.
        sc.mount(None, ".", None, sc.MS_SLAVE | sc.MS_REC)
        sc.umount(".", sc.MNT_DETACH)
        os.chdir("/")
        os.close(old)
        os.close(self._fd)
        propagation = self._spec.Linux.RootfsPropagation
        if propagation:
            self._progress.at("set root propagation", propagation)
            sc.mount(None, "/", None, mount_options.PROPAGATION[propagation])

    # -- inside --------------------------------------------------------------------------------

    def _bind_root(self) -> None:
        path = self._spec.Root.Path
        self._progress.at("isolate mounts")
        sc.mount(None, "/", None, sc.MS_SLAVE | sc.MS_REC)
        self._progress.at("bind root", path)
        sc.mount(path, path, None, sc.MS_BIND | sc.MS_REC)
        # pivot_root(2) refuses a root whose parent mount is shared.
        sc.mount(None, path, None, sc.MS_PRIVATE)
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY)

    def _directory(self, path: str) -> int:
        """Open the directory ``path`` inside the root, made with its parents where missing."""
        return self._ensure(path, os.O_DIRECTORY, _make_directory)

    def _file(self, path: str) -> int:
        """Open the file ``path`` inside the root, made empty with its parents where missing."""
        return self._ensure(path, 0, _make_file)

    def _ensure(self, path: str, flags: int, make: Callable[[str, int], None]) -> int:
        try:
            return sc.open_in_root(self._fd, path, os.O_PATH | flags)
        except FileNotFoundError:
            parent, name = os.path.split(os.path.normpath("/" + path))
        above = self._directory(parent)
        try:
            make(name, above)
        except FileExistsError:  # a link to what does not exist yet, such as /var/run in an image
            target = os.readlink(name, dir_fd=above)
            return self._ensure(os.path.join(parent, target), flags, make)
        finally:
            os.close(above)
        return sc.open_in_root(self._fd, path, os.O_PATH | flags)

    def _mount(self, mount: Mount) -> None:
        options = mount_options.parse(mount.options)
        source, fstype = mount.source or mount.type, mount.type
        where = _place(mount)
        self._progress.at(
            f"error mounting {json.dumps(source)} to rootfs at {json.dumps(mount.destination)}: "
            f"mount {fstype or 'bind'} ({','.join(mount.options)})"
        )
        if fstype in ("bind", "rbind") and not options.bind:
            bits = sc.MS_BIND | (sc.MS_REC if fstype == "rbind" else 0)
            options = options._replace(flags=options.flags | bits)
        if fstype == "cgroup":  # the guest has the unified hierarchy only
            source, fstype, options = "cgroup2", "cgroup2", options._replace(data="")
        self._check_proc(where, source, fstype, options)
        if fstype == "tmpfs" and not options.bind:
            options = self._with_mode(where, options)
        below = self._mount_point(where, source, options)
        if (fstype == "tmpfs" or where == "/dev") and options.flags & sc.MS_RDONLY:
            options = options._replace(flags=options.flags & ~sc.MS_RDONLY)
            self._readonly_later.append(where)
        mount_options.attach(source, _by_fd(below), fstype, options)
        # The old descriptor means the directory below the mount: open what is there now.
        target = sc.open_in_root(self._fd, where, os.O_PATH)
        mount_options.adjust(_by_fd(target), options)
        if options.copy_up and fstype == "tmpfs":
            from kata_agent.copy_up import copy_tree

            copy_tree(below, target)
        os.close(target)
        os.close(below)

    def _mount_point(self, where: str, source: str, options: mount_options.MountOptions) -> int:
        if options.bind and not stat.S_ISDIR(os.stat(source).st_mode):
            return self._file(where)
        return self._directory(where)

    def _with_mode(
        self, where: str, options: mount_options.MountOptions
    ) -> mount_options.MountOptions:
        """Give a tmpfs the mode of what it covers, if the image has that, and none is asked for."""
        try:
            fd = sc.open_in_root(self._fd, where, os.O_PATH)
        except FileNotFoundError:
            return options
        mode = f"mode={stat.S_IMODE(os.fstat(fd).st_mode):04o}"
        os.close(fd)
        return options._replace(data=f"{mode},{options.data}".rstrip(","))

    def _check_proc(
        self, where: str, source: str, fstype: str, options: mount_options.MountOptions
    ) -> None:
        """Refuse what runc refuses for the sake of a /proc that can be trusted."""
        reason = ""
        if fstype in ("proc", "sysfs") and not options.bind:
            with contextlib.suppress(FileNotFoundError):
                fd = sc.open_in_root(self._fd, where, os.O_PATH | os.O_NOFOLLOW)
                ordinary = stat.S_ISDIR(os.fstat(fd).st_mode)
                os.close(fd)
                reason = "" if ordinary else "it must be mounted on an ordinary directory"
        elif fstype == "tmpfs" and not options.bind:
            return
        else:
            reason = self._distrust(self._resolve(where), source, options)
        if reason:
            raise StepError(f"{self._progress.step}: {reason}")

    def _distrust(self, where: str, source: str, options: mount_options.MountOptions) -> str:
        """Return why a mount at ``where``, with no link in it, makes /proc untrusted, or nothing."""
        if where == "/proc" and not (options.bind and os.path.exists(f"{source}/self/stat")):
            return f"{where} cannot be mounted because it is not of type proc"
        if where.startswith("/proc/") and where not in _COVERED_PROC:
            return f"{where} cannot be mounted because it is inside /proc"
        return ""

    def _resolve(self, path: str) -> str:
        """Return where ``path`` leads inside the root, as `_ensure` finds or would make it."""
        try:
            fd = sc.open_in_root(self._fd, path, os.O_PATH)
        except FileNotFoundError:
            parent, name = os.path.split(os.path.normpath("/" + path))
        else:
            found = os.path.relpath(os.readlink(_by_fd(fd)), os.readlink(_by_fd(self._fd)))
            os.close(fd)
            return os.path.normpath("/" + found)
        above = self._resolve(parent)
        try:
            fd = sc.open_in_root(self._fd, os.path.join(above, name), os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return os.path.join(above, name)
        target = os.readlink("", dir_fd=fd)  # it leads to what does not exist yet
        os.close(fd)
        return self._resolve(os.path.join(above, target))

    def _populate_dev(self) -> None:
        self._progress.at("open", "/dev")
        dev = self._directory("/dev")
        given = {os.path.normpath(device.Path) for device in self._spec.Linux.Devices}
        for name, major, minor in _DEFAULT_DEVICES:
            if f"/dev/{name}" not in given:
                device = LinuxDevice(Path=f"/dev/{name}", Type="c", Major=major, Minor=minor)
                self._make_device(device)
        for device in self._spec.Linux.Devices:
            self._make_device(device)
        for name, target in _SYMLINKS:
            if name == "core" and not os.path.exists(target):
                continue
            self._progress.at("link", "/dev/" + name)
            if name == "ptmx":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=dev)
            with contextlib.suppress(FileExistsError):
                os.symlink(target, name, dir_fd=dev)
        os.close(dev)

    def _make_device(self, device: LinuxDevice) -> None:
        self._progress.at("create device", device.Path)
        kind = _DEVICE_TYPES.get(device.Type)
        if kind is None:
            raise StepError(
                f"create device {device.Path}: type {device.Type!r} is none of c, u, b, p"
            )
        parent, name = os.path.split(os.path.normpath("/" + device.Path))
        above = self._directory(parent)
        mode = stat.S_IMODE(device.FileMode) or 0o666
        number = os.makedev(device.Major, device.Minor)
        try:
            os.mknod(name, kind | mode, number, dir_fd=above)
        except FileExistsError:
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
            if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != number:
                raise
        else:
            os.chown(name, device.UID, device.GID, dir_fd=above, follow_symlinks=False)
        finally:
            os.close(above)

    def _open_null(self) -> int:
        """Open the container's /dev/null if it is one, or else the guest's."""
        try:
            fd = sc.open_in_root(self._fd, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return os.open("/dev/null", os.O_PATH)
        found = os.fstat(fd)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3):
            return fd
        os.close(fd)  # an image's own file would not hide anything
        return os.open("/dev/null", os.O_PATH)

    def _make_readonly(self, path: str) -> None:
        self._progress.at("make read-only", path)
        try:
            target = sc.open_in_root(self._fd, path, os.O_PATH)
        except FileNotFoundError:
            return
        sc.mount(_by_fd(target), _by_fd(target), None, sc.MS_BIND | sc.MS_REC)
        os.close(target)
        target = sc.open_in_root(self._fd, path, os.O_PATH)
        self._remount_readonly(target)
        os.close(target)

    def _remount_readonly(self, fd: int) -> None:
        kept = os.statvfs(_by_fd(fd)).f_flag & _KEPT_FLAGS
        flags = sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY | kept
        sc.mount(None, _by_fd(fd), None, flags)

    def _mask(self, path: str) -> None:
        self._progress.at("mask", path)
        try:
            target = sc.open_in_root(self._fd, path, os.O_PATH)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(os.fstat(target).st_mode):
            # Nothing can ever be in it: runc spends no more on it either.
            sc.mount("tmpfs", _by_fd(target), "tmpfs", sc.MS_RDONLY, "nr_inodes=1,size=4k")
        else:
            null = self._open_null()
            sc.mount(_by_fd(null), _by_fd(target), None, sc.MS_BIND)
            os.close(null)
        os.close(target)


def sysctl_path(name: str) -> str:
    """Return the file of a sysctl; a name with slashes may have dots in its parts (sysctl(8))."""
    first = next((letter for letter in name if letter in "./"), ".")
    return "/proc/sys/" + (name.translate(_DOTS) if first == "." else name)


def _place(mount: Mount) -> str:
    return os.path.normpath("/" + mount.destination.lstrip("/"))


def _make_directory(name: str, above: int) -> None:
    os.mkdir(name, 0o755, dir_fd=above)


def _make_file(name: str, above: int) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o644, dir_fd=above))


def _is_bind(mount: Mount) -> bool:
    return mount.type in ("bind", "rbind") or mount_options.parse(mount.options).bind
