"""The effective configuration, and where each of its values comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from kata.config.agent import AgentSettings, MemoryAgentSettings
from kata.config.document import Node
from kata.config.factory import FactorySettings
from kata.config.hypervisor import HypervisorSettings
from kata.config.runtime import RuntimeSettings
from kata.config.setting import Section

OriginKind: TypeAlias = Literal["default", "file", "drop-in", "annotation"]

# Every table, in the order of the shipped file and the reference page.
SECTIONS: tuple[type[Section], ...] = (
    HypervisorSettings,
    FactorySettings,
    AgentSettings,
    MemoryAgentSettings,
    RuntimeSettings,
)


class Origin(NamedTuple):
    """Where a value comes from: the default, a file and its line, or a pod's annotation."""

    kind: OriginKind
    file: str | None = None
    line: int | None = None
    annotation: str | None = None

    def __str__(self) -> str:
        if self.kind == "annotation":
            return f"annotation {self.annotation}"
        return f"{self.kind} {self.file}:{self.line}" if self.file else self.kind


# What set a value: a place in a file, or the full name of an annotation.
Setter: TypeAlias = Node | str


class Origins(Mapping[str, Origin]):
    """The origin of every key, by dotted name; lines are counted when an origin is asked for."""

    def __init__(self, setters: Mapping[str, Setter]) -> None:
        self.setters = setters

    def __getitem__(self, key: str) -> Origin:
        setter = self.setters.get(key)
        if isinstance(setter, str):
            return Origin("annotation", annotation=setter)
        if setter is not None:
            document = setter.document
            kind: OriginKind = "drop-in" if document.rank else "file"
            return Origin(kind, document.path, document.line_of(setter.key))
        if key in _all_keys():
            return Origin("default")
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(_all_keys())

    def __len__(self) -> int:
        return len(_all_keys())

    def where(self, key: str) -> str:
        """Say where a key was set, for the start of an error message."""
        origin = self[key]
        return f"{origin.file}:{origin.line}" if origin.file else str(origin)


class Configuration(NamedTuple):
    """Every setting of a sandbox, checked; made by `kata.config.load`.

    `path` is the base file, links resolved. `origins` says for each dotted key, for example
    `hypervisor.qemu.default_memory`, what set it. `annotations` are those that were applied.
    """

    path: str
    hypervisor: HypervisorSettings
    factory: FactorySettings
    agent: AgentSettings
    mem_agent: MemoryAgentSettings
    runtime: RuntimeSettings
    origins: Origins
    annotations: Mapping[str, str] = MappingProxyType({})

    def sections(self) -> tuple[Section, ...]:
        """Return the sections in the order of `SECTIONS`."""
        return (self.hypervisor, self.factory, self.agent, self.mem_agent, self.runtime)

    def effective(self) -> Iterator[tuple[str, object, Origin]]:
        """Yield every key with its value and origin, in the order of the reference page."""
        for section in self.sections():
            for name, value in section.values().items():
                key = f"{section.table}.{name}"
                yield key, value, self.origins[key]


def _all_keys() -> dict[str, None]:
    return {f"{section.table}.{name}": None for section in SECTIONS for name in section.settings}
