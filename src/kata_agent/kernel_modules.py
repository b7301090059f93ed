"""Kernel modules: loaded by name with what they depend on, or for the devices that are there.

Reads the indexes that depmod(8) writes (modules.dep(5)); a module file must be uncompressed, as
finit_module(2) is given its descriptor.
"""

from __future__ import annotations

import errno
import fnmatch
import os
from collections.abc import Iterator

from kata_agent import syscalls as sc
from ttrpc import RpcError, StatusCode

# In this order: the transport makes the devices of the second bus appear.
_BUSES = ("pci", "virtio")


class KernelModules:
    """The modules of one kernel release below ``directory``, such as /lib/modules/6.1.0-44-amd64.

    The indexes are read at the first use. ``sysfs`` is where the device tree is mounted.
    """

    def __init__(self, directory: str, *, sysfs: str = "/sys") -> None:
        self._directory = directory
        self._sysfs = sysfs
        self._files: dict[str, tuple[str, ...]] | None = None  # name -> file, then dependencies
        self._builtin: set[str] = set()
        self._aliases: list[tuple[str, str, str]] = []  # literal start, pattern, name
        self._loaded: set[str] = set()

    def __repr__(self) -> str:
        return f"<kernel modules in {self._directory}, {len(self._loaded)} loaded>"

    def load(self, name: str, parameters: str = "") -> None:
        """Load module ``name`` after its dependencies; one that is loaded or built in is fine.

        Raises ``RpcError`` NOT_FOUND when the image has no such module, ``OSError`` when the kernel
        refuses one; those loaded before it stay.
        """
        name = _normal(name)
        files = self._index()
        if name in self._loaded or name in self._builtin or not files:
            return  # without an index the kernel has everything built in or nothing to load
        if name not in files:
            if os.path.isdir(f"{self._sysfs}/module/{name}"):
                return
            raise RpcError(
                StatusCode.NOT_FOUND,
                f"the guest image has no kernel module {name}; build one that lists it",
            )
        own, *dependencies = files[name]
        for path in reversed(dependencies):
            self._insert(path, "")
        self._insert(own, parameters)

    def coldplug(self) -> list[str]:
        """Load the drivers of every device on the PCI and virtio buses; return the modules' names.

        A driver that fails to load is left out: its device may not be needed. Repeat it after a
        hotplug.
        """
        before = set(self._loaded)
        for bus in _BUSES:
            for modalias in self._modaliases(bus):
                for name in self._matches(modalias):
                    try:
                        self.load(name)
                    except OSError:
                        continue
        return sorted(self._loaded - before)

    # -- inside --------------------------------------------------------------------------------

    def _insert(self, path: str, parameters: str) -> None:
        name = _name_of(path)
        if name in self._loaded:
            return
        fd = os.open(os.path.join(self._directory, path), os.O_RDONLY)
        try:
            sc.finit_module(fd, parameters)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise OSError(error.errno, os.strerror(error.errno or 0), path) from error
        finally:
            os.close(fd)
        self._loaded.add(name)

    def _index(self) -> dict[str, tuple[str, ...]]:
        if self._files is None:
            self._files = {}
            for line in self._lines("modules.dep"):
                path, _, dependencies = line.partition(":")
                self._files[_name_of(path)] = (path, *dependencies.split())
            self._builtin = {_name_of(line) for line in self._lines("modules.builtin")}
            for line in self._lines("modules.alias"):
                fields = line.split()
                if len(fields) == 3 and fields[0] == "alias":
                    start = fields[1].split("*")[0].split("?")[0].split("[")[0]
                    self._aliases.append((start, fields[1], _normal(fields[2])))
        return self._files

    def _matches(self, modalias: str) -> Iterator[str]:
        self._index()
        for start, pattern, name in self._aliases:
            # Compiling a pattern costs a millisecond under emulation: look at its start first.
            if modalias.startswith(start) and fnmatch.fnmatchcase(modalias, pattern):
                yield name

    def _modaliases(self, bus: str) -> list[str]:
        directory = f"{self._sysfs}/bus/{bus}/devices"
        found: list[str] = []
        try:
            devices = sorted(os.listdir(directory))
        except FileNotFoundError:
            return found
        for device in devices:
            try:
                with open(f"{directory}/{device}/modalias", encoding="ascii") as file:
                    found.append(file.read().strip())
            except FileNotFoundError:  # unplugged while we look
                continue
        return list(dict.fromkeys(found))

    def _lines(self, name: str) -> list[str]:
        try:
            with open(os.path.join(self._directory, name), encoding="utf-8") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []


def _name_of(path: str) -> str:
    return _normal(os.path.basename(path).partition(".ko")[0])


def _normal(name: str) -> str:
    """Spell a module's name as the kernel does, which takes ``-`` for ``_``."""
    return name.replace("-", "_")
