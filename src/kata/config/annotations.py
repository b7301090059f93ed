"""The annotation gate: what a pod may change, and how its text becomes a value.

Of upstream's `io.katacontainers.*` annotations, those of the hypervisor and those that would loosen
a pod's own confinement need the operator's permission. One that is unknown, not permitted, not
implemented or unreadable fails the pod; none is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kata.config import assets
from kata.config.agent import AgentSettings
from kata.config.configuration import SECTIONS, Configuration, Origins, Setter
from kata.config.errors import ConfigError, RefusalError
from kata.config.hypervisor import HypervisorSettings
from kata.config.loader import check, nearest
from kata.config.runtime import RuntimeSettings
from kata.config.setting import Section, Setting

PREFIX = "io.katacontainers."
CONFIG = f"{PREFIX}config."
_HYPERVISOR = f"{CONFIG}hypervisor."
# Upstream's Go runtime leaves the table out of some names, and has others for a few hashes.
_SPELLINGS = {
    f"{PREFIX}enable_vcpus_pinning": f"{CONFIG}runtime.enable_vcpus_pinning",
    f"{PREFIX}asset_hash_type": f"{_HYPERVISOR}asset_hash_type",
    f"{_HYPERVISOR}hypervisor_hash": f"{_HYPERVISOR}path_hash",
    f"{_HYPERVISOR}jailer_hash": f"{_HYPERVISOR}jailer_path_hash",
}
_HASH_TYPE = f"{_HYPERVISOR}asset_hash_type"
# Hashes of files by the annotation that names one, and the key that says where the file is.
_HASHES = {
    f"{_HYPERVISOR}{name}_hash": name
    for name, row in HypervisorSettings.settings.items()
    if row.asset
}
_LATER_HASHES = tuple(
    f"{_HYPERVISOR}{name}_hash"
    for name in ("image", "firmware", "firmware_volume", "jailer_path", "hypervisorctl")
)
# What upstream's runtimes write down for themselves; it asks for nothing.
_NOTES = (f"{PREFIX}pkg.oci.bundle_path", f"{PREFIX}pkg.oci.container_type")
_NO_SWAP = "the guest has no swap: remove it"
_OF_MOUNTS = "it is an option of mounts, and no snapshotter's that is supported: remove it"
_REFUSED = {
    f"{PREFIX}container.resource.swappiness": _NO_SWAP,
    f"{PREFIX}container.resource.swap_in_bytes": _NO_SWAP,
    f"{PREFIX}volume": _OF_MOUNTS,
    f"{PREFIX}fs-opt.layer": _OF_MOUNTS,
    f"{PREFIX}fs-opt.is-layer": _OF_MOUNTS,
    f"{PREFIX}fs-opt.block_device": _OF_MOUNTS,
    f"{PREFIX}fs-opt.overlay-rw": _OF_MOUNTS,
}
_CONFINEMENT = tuple(
    f"{CONFIG}runtime.{name}" for name in ("disable_guest_seccomp", "sandbox_cgroup_only")
)
"""With these a pod could switch off its seccomp profiles, and leave what it costs unaccounted."""


def apply_annotations(
    configuration: Configuration, annotations: Mapping[str, str]
) -> Configuration:
    """Return the configuration with a pod's annotations applied.

    Annotations of others than `io.katacontainers.` are not looked at. Raises `ConfigError` that
    names the annotation when it is unknown, not implemented, not enabled, outside its allow-list,
    has a bad value, or is the hash of another file.
    """
    ours = {name: annotations[name] for name in sorted(annotations) if _is_ours(name)}
    if not ours:
        return configuration
    changes: dict[type[Section], dict[str, object]] = {section: {} for section in SECTIONS}
    setters: dict[str, Setter] = dict(configuration.origins.setters)
    hashes: dict[str, str] = {}
    for full, text in ours.items():
        name = _SPELLINGS.get(full, full)
        if name.startswith(_HYPERVISOR) and _is_of_hash(name):
            _gate(configuration.hypervisor, name, full)
            if wanted := _hash(name, full, text):
                hashes[full] = wanted
            continue
        section, row = _find(name, full)
        if section is HypervisorSettings or full in _CONFINEMENT:
            _gate(configuration.hypervisor, full, full)
        present = next(part for part in configuration.sections() if type(part) is section)
        changes[section][row.name] = _value(row, present, full, text)
        setters[f"{section.table}.{row.name}"] = full
    _pair_timeout(changes, setters)
    changed = configuration._replace(
        hypervisor=configuration.hypervisor.replace(**changes[HypervisorSettings]),
        agent=configuration.agent.replace(**changes[AgentSettings]),
        runtime=configuration.runtime.replace(**changes[RuntimeSettings]),
        origins=Origins(setters),
        annotations={**configuration.annotations, **ours},
    )
    check(changed)
    for full, wanted in hashes.items():
        key = _HASHES[_SPELLINGS.get(full, full)]
        assets.verify(getattr(changed.hypervisor, key), wanted, full)
    return changed


def check_container(configuration: Configuration, annotations: Mapping[str, str]) -> None:
    """Refuse annotations of a further container that would have no effect.

    Those of its pod, which runtimes pass on to its containers, are fine as long as they say what the
    sandbox was started with. Raises `ConfigError` that names the annotation.
    """
    for full in sorted(filter(_is_ours, annotations)):
        if configuration.annotations.get(full) == annotations[full]:
            continue
        name = _SPELLINGS.get(full, full)
        if not (name.startswith(_HYPERVISOR) and _is_of_hash(name)):
            _find(name, full)
        raise ConfigError(
            f"annotation {full} of a container concerns its whole pod, which was started "
            + ("with another value" if full in configuration.annotations else "without it"),
            "set it in the pod's metadata only, before the pod is started",
        )


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and name not in _NOTES


def _is_of_hash(name: str) -> bool:
    return name in _HASHES or name in _LATER_HASHES or name == _HASH_TYPE


def _hash(name: str, full: str, text: str) -> str:
    """Return the hash that an annotation names, or nothing if it names but the kind of hash."""
    if name in _LATER_HASHES:
        raise ConfigError(f"annotation {full} is not implemented yet", "remove it")
    if name == _HASH_TYPE:
        if text != "sha512":
            raise ConfigError(f"annotation {full} cannot be {text!r}", "sha512 is what there is")
        return ""
    if len(text) != assets.DIGITS or set(text) - set("0123456789abcdefABCDEF"):
        raise ConfigError(
            f"annotation {full} must be {assets.DIGITS} hexadecimal digits, not {text[:140]!r}",
            f"sha512sum prints them: a SHA-512 hash of the file that {_HASHES[name]} names",
        )
    return text


def _find(name: str, full: str) -> tuple[type[Section], Setting]:
    rows = {
        f"{PREFIX}{section.annotated_as}{row.annotation}": (section, row)
        for section in SECTIONS
        for row in section.settings.values()
        if row.annotation
    }
    if name in rows:
        return rows[name]
    if name in _REFUSED:
        raise ConfigError(f"annotation {full} is not implemented", _REFUSED[name])
    known = [*rows, *_HASHES, *_REFUSED, *_SPELLINGS, *_NOTES, _HASH_TYPE]
    raise ConfigError(f"unknown annotation {full}", nearest(name, known))


def _gate(hypervisor: HypervisorSettings, name: str, full: str) -> None:
    name = name.removeprefix(f"{PREFIX}{hypervisor.annotated_as}")
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
