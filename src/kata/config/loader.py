"""The loader: files in, one checked `Configuration` out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import reduce
from typing import NoReturn, TypeVar

from kata.config.agent import AgentSettings, MemoryAgentSettings
from kata.config.configuration import SECTIONS, Configuration, Origins
from kata.config.document import Key, Node, merge, plain
from kata.config.errors import ConfigError, RefusalError
from kata.config.factory import FactorySettings
from kata.config.hypervisor import HypervisorSettings
from kata.config.lookup import documents, find
from kata.config.runtime import RuntimeSettings
from kata.config.setting import Section, Setting

S = TypeVar("S", bound=Section)
Values = dict[type[Section], dict[str, object]]

_TABLES: dict[Key, type[Section]] = {
    tuple(name.split(".")): section
    for section in SECTIONS
    for name in (section.table, *section.accepted_as)
}
_ABOVE = {table[:depth] for table in _TABLES for depth in range(len(table))}
# One setting that upstream's two runtimes keep in different tables.
_TWINS = ("agent.kata.create_container_timeout", "runtime.create_container_timeout")


def load(path: str | None = None, *, environ: Mapping[str, str] | None = None) -> Configuration:
    """Read the configuration and its drop-ins, and check every value.

    `path` comes from containerd's runtime options and wins; then `KATA_CONF_FILE` of `environ`
    (the process's own when None), then the default paths. Raises `ConfigError`, which names file,
    line, key and what is allowed.
    """
    base = find(path, os.environ if environ is None else environ)
    tree = reduce(merge, [document.tree() for document in documents(base)])
    reading = _Reading()
    reading.read(tree, ())
    configuration = reading.configuration(base)
    check(configuration)
    return configuration


def check(configuration: Configuration) -> None:
    """Check what no single key can tell; raises `ConfigError`."""
    hypervisor, where = configuration.hypervisor, configuration.origins.where
    for name in ("path", "kernel", "initrd"):
        if not getattr(hypervisor, name):
            raise ConfigError(
                f"{configuration.path}: hypervisor.qemu.{name} is not set",
                f"name a file: {hypervisor.settings[name].help}",
            )
    if hypervisor.shared_fs == "virtio-fs" and not hypervisor.virtio_fs_daemon:
        raise ConfigError(
            f"{where('hypervisor.qemu.virtio_fs_daemon')}: hypervisor.qemu.virtio_fs_daemon is "
            'empty, and shared_fs = "virtio-fs" needs it',
            'name the virtiofsd binary, or set shared_fs = "virtio-9p"',
        )
    if hypervisor.rootless and hypervisor.shared_fs == "virtio-9p":
        raise ConfigError(
            f"{where('hypervisor.qemu.rootless')}: hypervisor.qemu.rootless = true, and under "
            'shared_fs = "virtio-9p" QEMU itself makes files of every owner',
            'set shared_fs = "virtio-fs", or rootless = false',
        )
    most = hypervisor.default_maxvcpus
    if most and hypervisor.default_vcpus > most:
        raise ConfigError(
            f"{where('hypervisor.qemu.default_vcpus')}: hypervisor.qemu.default_vcpus = "
            f"{hypervisor.default_vcpus:g} is more than default_maxvcpus = {most}",
            "lower the first or raise the second",
        )
    _check_patterns(configuration)


def _check_patterns(configuration: Configuration) -> None:
    for pattern in configuration.hypervisor.enable_annotations:
        if pattern.isidentifier():
            continue  # a plain name, the usual case, is its own pattern
        import re

        try:
            re.compile(pattern)
        except re.error as error:
            key = "hypervisor.qemu.enable_annotations"
            raise ConfigError(
                f"{configuration.origins.where(key)}: {key} holds {pattern!r}, which is not a "
                f"regular expression: {error}",
                "write names of annotations, or patterns that match whole names",
            ) from error


class _Reading:
    """A walk over the merged tree that gathers checked values and what set them."""

    def __init__(self) -> None:
        self.values: Values = {section: {} for section in SECTIONS}
        self.setters: dict[str, Node] = {}

    def read(self, node: Node, key: Key) -> None:
        """Take in a table that is a section, or lies above one."""
        if node.table is None:
            raise ConfigError(f"{node.place}: {'.'.join(key)} must be a table")
        section = _TABLES.get(key)
        for name, child in node.table.items():
            below = (*key, name)
            if below in _TABLES or below in _ABOVE:
                self.read(child, below)
            elif section is not None:
                self._take(section, name, child)
            else:
                _refuse_unknown(child, name, [table[-1] for table in _TABLES])

    def _take(self, section: type[Section], written: str, node: Node) -> None:
        row = _row(section, written, node)
        dotted = f"{section.table}.{row.name}"
        try:
            value = row.check(plain(node.value))
        except RefusalError as refusal:
            message = f"{node.place}: {'.'.join(node.key)} {refusal.reason}"
            raise ConfigError(message, refusal.hint) from refusal
        taken, earlier = self.values[section], self.setters.get(dotted)
        if earlier is None or _outranks(node, earlier, differs=taken[row.name] != value):
            taken[row.name] = value
            self.setters[dotted] = node

    def configuration(self, base: str) -> Configuration:
        """Make the configuration of what was read, defaults filled in."""
        self._pair_twins()
        return Configuration(
            path=base,
            hypervisor=self._make(HypervisorSettings),
            factory=self._make(FactorySettings),
            agent=self._make(AgentSettings),
            mem_agent=self._make(MemoryAgentSettings),
            runtime=self._make(RuntimeSettings),
            origins=Origins(dict(self.setters)),
        )

    def _make(self, section: type[S]) -> S:
        return section(**self.values[section])

    def _pair_twins(self) -> None:
        """Give both tables the container timeout that either of them holds."""
        agent, runtime = self.values[AgentSettings], self.values[RuntimeSettings]
        name = "create_container_timeout"
        given = [
            (table[name], self.setters[key])
            for table, key in zip((agent, runtime), _TWINS, strict=True)
            if name in table
        ]
        if not given:
            return
        (value, setter), (other, rival) = given[0], given[-1]
        if setter is not rival and _outranks(rival, setter, differs=value != other):
            value, setter = other, rival
        agent[name] = runtime[name] = value
        self.setters.update(dict.fromkeys(_TWINS, setter))


def _outranks(node: Node, other: Node, *, differs: bool) -> bool:
    """Say whether the first of two nodes for one setting wins: the one of the later file does.

    Raises `ConfigError` when a single file sets it twice, under two names, to different values.
    """
    if differs and node.document is other.document:
        raise ConfigError(
            f"{node.place}: {'.'.join(node.key)} differs from {'.'.join(other.key)}, the same "
            f"setting, at {other.place}",
            "keep one of the two",
        )
    return node.document.rank >= other.document.rank


def _row(section: type[Section], written: str, node: Node) -> Setting:
    rows = section.settings
    row = rows.get(written) or next((row for row in rows.values() if written in row.aliases), None)
    if row is None:
        _refuse_unknown(node, written, list(rows))
    return row


def _refuse_unknown(node: Node, name: str, known: list[str]) -> NoReturn:
    """Raise for a key that is in no table, with the nearest name or the table it belongs to."""
    message = f"{node.place}: unknown {'table' if node.table is not None else 'key'} "
    message += ".".join(node.key)
    homes = [section.table for section in SECTIONS if name in section.settings]
    if homes:
        raise ConfigError(message, f"{name} belongs in [{homes[0]}]")
    raise ConfigError(message, nearest(name, known))


def nearest(name: str, known: list[str]) -> str:
    """Return a hint with the known name most like the given one, or where to find them all."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "docs/configuration.md lists what there is"
