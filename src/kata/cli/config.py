"""`kata-ctl config`: every effective value of the configuration, and what set it."""

import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer

from kata.cli.output import AsJson, ConfigPath, console, print_json
from kata.config import Configuration, Origin, Setting, apply_annotations, load
from kata.config.configuration import SECTIONS
from kata.config.errors import ConfigError
from kata.config.lookup import default_files, documents

_COMMENT_COLUMN = 44


class Row(NamedTuple):
    """One key: its table, its row of the settings table, its value and what set it."""

    table: str
    setting: Setting
    value: object
    origin: Origin

    @property
    def key(self) -> str:
        """The dotted name."""
        return f"{self.table}.{self.setting.name}"


def config(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY]...",
            help="Tables (runtime, hypervisor.qemu, agent, ...) or single keys; all by default.",
        ),
    ] = None,
    path: ConfigPath = None,
    annotations: Annotated[
        list[str] | None,
        typer.Option(
            "--annotation",
            "-a",
            metavar="NAME=VALUE",
            help="Apply a pod's annotation, as if the pod were started; may be given repeatedly.",
        ),
    ] = None,
    sandbox: Annotated[
        str | None,
        typer.Option(
            "--sandbox",
            "-s",
            metavar="ID",
            help="The file and the annotations of a sandbox on this host, as the file is now.",
        ),
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", "-c", help="Only what is not at its default.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the keys that are known and not implemented yet.")
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Only print where the file is looked for, best first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the effective configuration, and what set each value.

    The text is TOML; behind each value stands its origin: the default, a file or drop-in with
    its line, or an annotation. Exits with 1, and says where and why, if the configuration cannot
    be used: this is how to check one before a pod does.
    """
    if files:
        _print_files(as_json)
        return
    path, applied = _of_sandbox(sandbox) if sandbox else (path, {})
    applied |= dict(map(_parted, annotations or []))
    configuration = apply_annotations(load(path), applied)
    rows = _chosen(configuration, keys or [])
    if changed:
        rows = [row for row in rows if row.origin.kind != "default"]
    if as_json:
        print_json(_plain(configuration, rows))
    else:
        _print_toml(configuration, rows, everything=everything or bool(keys))


def _of_sandbox(prefix: str) -> tuple[str, dict[str, str]]:
    """Return the file that a sandbox was started with, and its pod's annotations."""
    from kata.sandbox.inventory import InventoryError, find

    found = find(prefix)
    try:
        path, since = str(found.facts["configuration"]), float(found.facts["created_at"])
    except KeyError:
        raise InventoryError(f"the record of sandbox {found.id} does not name its file") from None
    files = [each.path for each in documents(path)]
    newer = [each for each in files if os.path.getmtime(each) > since]
    if newer:
        print(f"kata-ctl: newer than sandbox {found.id}: {', '.join(newer)}", file=sys.stderr)
    return path, dict(found.facts.get("annotations", {}))


def _parted(annotation: str) -> tuple[str, str]:
    name, found, value = annotation.partition("=")
    if not found:
        raise ConfigError(f"annotation {annotation!r} has no value", "write it as NAME=VALUE")
    return name, value


def _rows(configuration: Configuration) -> Iterator[Row]:
    for section in configuration.sections():
        for name, value in section.values().items():
            origin = configuration.origins[f"{section.table}.{name}"]
            yield Row(section.table, section.settings[name], value, origin)


def _chosen(configuration: Configuration, keys: list[str]) -> list[Row]:
    """Return the rows of the tables and keys, or all; raises `ConfigError` for an unknown one."""
    rows = list(_rows(configuration))
    if not keys:
        return rows
    for key in keys:
        if not any(_is_called(row, key) for row in rows):
            raise ConfigError(f"no table and no key is called {key}", _nearest(key))
    return [row for row in rows if any(_is_called(row, key) for key in keys)]


def _is_called(row: Row, key: str) -> bool:
    return key in (row.key, row.setting.name) or row.key.startswith(f"{key}.")


def _nearest(key: str) -> str:
    import difflib

    tables = [section.table for section in SECTIONS]
    known = [*tables, *(name for section in SECTIONS for name in section.settings)]
    close = difflib.get_close_matches(key.rpartition(".")[2] or key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"tables are {', '.join(tables)}"


def _print_files(as_json: bool) -> None:
    if as_json:
        print_json(default_files())
    else:
        print("\n".join(default_files()))


def _plain(configuration: Configuration, rows: list[Row]) -> dict[str, Any]:
    return {
        "file": configuration.path,
        "values": {
            row.key: {
                "value": row.value,
                "unit": row.setting.unit or None,
                "implemented": row.setting.implemented,
                "origin": row.origin._asdict(),
            }
            for row in rows
        },
    }


def _print_toml(configuration: Configuration, rows: list[Row], *, everything: bool) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(f"# {configuration.path}", style="dim"), soft_wrap=True)
    table = ""
    waiting = 0
    for row in rows:
        if not row.setting.implemented and not everything:
            waiting += 1
            continue
        if row.table != table:
            table = row.table
            out.print(Text(f"\n[{table}]", style="bold"))
        line = f"{row.setting.name} = {row.setting.render(row.value)}"
        text = Text(line.ljust(_COMMENT_COLUMN))
        text.append(f"  # {_comment(row)}", style="dim" if row.origin.kind == "default" else "cyan")
        out.print(text, soft_wrap=True)
    if waiting:
        note = f"\n# {waiting} more keys are known and not implemented yet; --all shows them"
        out.print(Text(note, style="dim"), soft_wrap=True)


def _comment(row: Row) -> str:
    unit = f"{row.setting.unit}; " if row.setting.unit else ""
    note = "" if row.setting.implemented else "; not implemented yet"
    return f"{unit}{row.origin}{note}"
