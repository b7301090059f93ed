"""The configuration: one table of settings, and the file, drop-ins and annotations that set them.

`load` reads the files, `apply_annotations` adds what a pod asks for; both give a frozen
`Configuration`. Importing this package costs little, as the shim does it at every start: TOML's
parser, regular expressions and anything that only an error needs are imported where they are used.
"""

from __future__ import annotations

from kata.config.agent import AgentSettings, MemoryAgentSettings
from kata.config.annotations import apply_annotations, check_container
from kata.config.configuration import Configuration, Origin, Origins
from kata.config.errors import ConfigError
from kata.config.factory import FactorySettings
from kata.config.hypervisor import HypervisorSettings
from kata.config.loader import load
from kata.config.runtime import RuntimeSettings
from kata.config.setting import Section, Setting

__all__ = [
    "AgentSettings",
    "ConfigError",
    "Configuration",
    "FactorySettings",
    "HypervisorSettings",
    "MemoryAgentSettings",
    "Origin",
    "Origins",
    "RuntimeSettings",
    "Section",
    "Setting",
    "apply_annotations",
    "check_container",
    "load",
]
