"""The annotation gate: what a pod may change, and how its text becomes a value.

Of upstream's `io.katacontainers.config.*` annotations, those of the hypervisor and those that would
loosen a pod's own confinement need the operator's permission. One that is unknown, not permitted
or unreadable fails the pod; none is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kata.config.agent import AgentSettings
from kata.config.configuration import SECTIONS, Configuration, Origins, Setter
from kata.config.errors import ConfigError, RefusalError
from kata.config.hypervisor import HypervisorSettings
from kata.config.loader import check, nearest
from kata.config.runtime import RuntimeSettings
from kata.config.setting import Section, Setting

PREFIX = "io.katacontainers."
CONFIG = f"{PREFIX}config."
# Upstream's Go runtime leaves the table out of this one name.
_GO_SPELLING = {f"{PREFIX}enable_vcpus_pinning": f"{CONFIG}runtime.enable_vcpus_pinning"}
# Upstream can check an asset against a hash that the pod names. Ignoring it would be a lie.
_HASHES = ("_hash", "asset_hash_type")
_CONFINEMENT = tuple(
    f"{CONFIG}runtime.{name}" for name in ("disable_guest_seccomp", "sandbox_cgroup_only")
)
"""With these a pod could switch off its seccomp profiles, and leave what it costs unaccounted."""


def apply_annotations(
    configuration: Configuration, annotations: Mapping[str, str]
) -> Configuration:
    """Return the configuration with a pod's annotations applied.

    Annotations outside `io.katacontainers.config.` are not looked at. Raises `ConfigError` that
    names the annotation when it is unknown, not enabled, outside its allow-list or has a bad
    value.
    """
    ours = sorted(name for name in annotations if name.startswith(CONFIG) or name in _GO_SPELLING)
    if not ours:
        return configuration
    changes: dict[type[Section], dict[str, object]] = {section: {} for section in SECTIONS}
    setters: dict[str, Setter] = dict(configuration.origins.setters)
    for full in ours:
        section, row = _find(_GO_SPELLING.get(full, full), full)
        if section is HypervisorSettings or full in _CONFINEMENT:
            _gate(configuration.hypervisor, full)
        present = next(part for part in configuration.sections() if type(part) is section)
        changes[section][row.name] = _value(row, present, full, annotations[full])
        setters[f"{section.table}.{row.name}"] = full
    _pair_timeout(changes, setters)
    changed = configuration._replace(
        hypervisor=configuration.hypervisor.replace(**changes[HypervisorSettings]),
        agent=configuration.agent.replace(**changes[AgentSettings]),
        runtime=configuration.runtime.replace(**changes[RuntimeSettings]),
        origins=Origins(setters),
    )
    check(changed)
    return changed


def _find(name: str, full: str) -> tuple[type[Section], Setting]:
    rows = {
        f"{PREFIX}{section.annotated_as}{row.annotation}": (section, row)
        for section in SECTIONS
        for row in section.settings.values()
        if row.annotation
    }
    if name in rows:
        return rows[name]
    if name.startswith(f"{CONFIG}hypervisor.") and name.endswith(_HASHES):
        raise ConfigError(f"annotation {full} is not implemented yet", "remove it")
    raise ConfigError(f"unknown annotation {full}", nearest(name, list(rows)))


def _gate(hypervisor: HypervisorSettings, full: str) -> None:
    name = full.removeprefix(f"{PREFIX}{hypervisor.annotated_as}")
    name = name.removeprefix(f"{CONFIG}runtime.")
    if name in hypervisor.enable_annotations:
        return
    import re

    if not any(re.fullmatch(pattern, name) for pattern in hypervisor.enable_annotations):
        raise ConfigError(
            f"annotation {full} is not enabled",
            f"an operator can add {name} to enable_annotations in [{hypervisor.table}]",
        )


def _value(row: Setting, present: Section, full: str, text: str) -> object:
    try:
        value = row.parse(text)
    except RefusalError as refusal:
        raise ConfigError(f"annotation {full} {refusal.reason}", refusal.hint) from refusal
    current = getattr(present, row.name)
    if row.allowed_by and value != current:
        _allow(str(value), getattr(present, row.allowed_by), full, row.allowed_by)
    return value if row.combine is None else row.combine(current, value)


def _allow(value: str, patterns: Iterable[str], full: str, listed: str) -> None:
    """Raise unless a path is in the list, or is one of the files its globs find.

    Globs are expanded rather than matched: "*" then stops at a slash and ".." leads nowhere.
    """
    import glob

    if not any(value == pattern or value in glob.glob(pattern) for pattern in patterns):
        raise ConfigError(
            f"annotation {full}: {value!r} is not allowed",
            f"an operator can add it to {listed} in [{HypervisorSettings.table}]",
        )


def _pair_timeout(
    changes: dict[type[Section], dict[str, object]], setters: dict[str, Setter]
) -> None:
    """Give both tables the container timeout, as the loader does."""
    name = "create_container_timeout"
    if name in changes[RuntimeSettings]:
        changes[AgentSettings][name] = changes[RuntimeSettings][name]
        setters[f"{AgentSettings.table}.{name}"] = setters[f"{RuntimeSettings.table}.{name}"]
