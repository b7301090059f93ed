"""The reference page of the configuration, `docs/configuration.md`, made from the settings table."""

from __future__ import annotations

from collections.abc import Iterator

from kata.config.configuration import SECTIONS
from kata.config.lookup import DROP_INS, ENVIRONMENT, SHIPPED_NAMES, SYSTEM_FILE
from kata.config.setting import Section, Setting

_INTRODUCTION = f"""\
# Configuration

<!-- Generated: python -m kata.config --docs > docs/configuration.md -->

The runtime reads one TOML file with upstream's tables and keys, then the drop-ins beside it, then
the pod's annotations. `kata-ctl config` prints the outcome: every value, and what set it.

## Where the file is looked for

The first of these that is there; a path that somebody named is the only one tried.

1. the `ConfigPath` that containerd's runtime options carry
2. the environment variable `{ENVIRONMENT}`
3. `{SYSTEM_FILE}`
4. `<prefix>/share/defaults/kata-containers/`: `{SHIPPED_NAMES[0]}`, then `{SHIPPED_NAMES[1]}`.
   `<prefix>` is the folder that holds the installation's `venv`, or else Python's own prefix
5. `/opt/kata/share/defaults/kata-containers/`, the same two names

## Drop-ins

Symbolic links to the file are resolved first. Every file in `{DROP_INS}/` beside the real file is
then laid over it, in the order of the names. Tables join key by key; numbers, strings, booleans
and lists are replaced, never appended to. Where one file has a table and another a value, the
later file wins. Upstream's installer uses the names `10-` to `50-`; `50-` to `89-` are for people.

## Errors

An unknown key, a value of the wrong type or out of range, and a key that is not implemented yet
are errors with file, line and remedy. A key that is not implemented yet may be there as long as
it holds its default, so a file made for upstream says at once what it would not get here.

## Annotations

A pod sets a key with `io.katacontainers.` and the name in the table. Those of `config.hypervisor.`,
and `disable_guest_seccomp` and `sandbox_cgroup_only` of `config.runtime.`, must also match an
expression in `enable_annotations`, and paths the allow-list of their key. An annotation of
`io.katacontainers.` that is unknown, not implemented, not enabled or malformed fails the pod, and the
message names it. Sizes in MiB may be written as `2 GiB`; lists as JSON, or separated by commas
(`kernel_modules`: semicolons). With containerd the handler's `pod_annotations`, with CRI-O its
`allowed_annotations`, decide which of them reach the runtime at all; a handler of containerd's with
`sandboxer = "shim"` passes all of a pod's on, whatever `pod_annotations` says.

`config.hypervisor.<key>_hash`, for the keys `path` (also `hypervisor_hash`), `kernel`, `initrd` and
`virtio_fs_daemon`, is the SHA-512 hash of the file that the key names in the end, in hexadecimal; the
pod fails if the file has another one. `asset_hash_type` may say `sha512`. These need
`enable_annotations`, too. A file is read once for each boot of the host and each change of it; what
was found is kept below `/run/kata-containers/digests`.

Annotations concern the pod. Its containers are given the same by containerd and CRI-O; one that has
another value, or that the pod has not, fails the container. `pkg.oci.bundle_path` and
`pkg.oci.container_type`, with which upstream makes a note, have no effect here either.

## Where this differs from upstream

| here | upstream | why |
| --- | --- | --- |
| the option's path wins over `{ENVIRONMENT}` | the Rust runtime has it the other way round | the option is the more specific one |
| `{ENVIRONMENT}` may name any file | only one of the default paths | whoever sets the shim's environment can also replace the file |
| unknown keys are errors | ignored | a typing error must not weaken a sandbox in silence |
| keys without effect are refused | about 17 are accepted and ignored | likewise |
| `disable_guest_seccomp` and `sandbox_cgroup_only` as annotations need `enable_annotations` | open to every pod | a pod must not loosen its own confinement |
| an expression of `enable_annotations` must match the whole name | a part is enough, so `path` also opens `jailer_path` | a permission says what it permits |
| `[factory]` and `[hypervisor.qemu.factory]` are the same table | one in each runtime | files of both work |
| `create_container_timeout` may stand in `[agent.kata]` or `[runtime]` | one in each runtime | likewise |
| `disable_guest_seccomp = false` | `true` | a profile that a pod asks for must hold, as it does under runc |
| a hash of a file is checked | by the Go runtime alone | what is ignored cannot be relied upon |
| annotations that are not enabled or not known fail the pod | the Rust runtime drops the first, the Go runtime the second | likewise |
| one rule for the size of a guest, `default_*` and what its containers may use | each runtime has its own | [resources.md](resources.md) |
| `initrd` | `image` | the initramfs is what our image builder makes |

## Keys
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_INTRODUCTION, *(_section(section) for section in SECTIONS)])


def _section(section: type[Section]) -> str:
    rows = section.settings.values()
    ready = [row for row in rows if row.implemented]
    waiting = [row for row in rows if not row.implemented]
    names = " or ".join(f"`[{name}]`" for name in (section.table, *section.accepted_as))
    parts = [f"### {names}\n"]
    if ready:
        parts += ["\n".join(_table(section, ready)), ""]
    if waiting:
        parts += ["Known, and not implemented yet: these only take their default.\n"]
        parts += ["\n".join(_table(section, waiting)), ""]
    return "\n".join(parts)


def _table(section: type[Section], rows: list[Setting]) -> Iterator[str]:
    yield "| key | type | default | meaning | annotation |"
    yield "| --- | --- | --- | --- | --- |"
    for row in rows:
        cells = (_key(row), _type(row), _default(row), _meaning(row), _annotation(section, row))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _key(row: Setting) -> str:
    return ", also ".join(f"`{name}`" for name in (row.name, *row.aliases))


def _type(row: Setting) -> str:
    return f"{row.kind.label}, {row.unit}" if row.unit else row.kind.label


def _default(row: Setting) -> str:
    if row.asset and not row.default:
        return "set by the shipped file"
    return f"`{row.render(row.shown or row.default)}`"


def _meaning(row: Setting) -> str:
    accepts = row.expectation()
    return f"{row.help} Accepts {accepts}." if accepts else row.help


def _annotation(section: type[Section], row: Setting) -> str:
    return f"`{section.annotated_as}{row.annotation}`" if row.annotation else ""
