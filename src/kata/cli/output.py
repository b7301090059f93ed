"""How commands show what they have found: tables for people, JSON for programs."""

import json
import sys
from typing import Annotated, Any

import typer

# A pipe has no width; what reads it wants whole lines.
_PIPE_COLUMNS = 1000

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ConfigPath = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration file. Without it, the shim's own search: KATA_CONF_FILE, then "
        "/etc/kata-containers, then the installation.",
    ),
]


def print_json(value: object) -> None:
    """Print a value of plain types as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def console() -> Any:
    """Return a rich console on standard output: as wide as the terminal, unbounded in a pipe."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_PIPE_COLUMNS, no_color=True)


def table(*columns: str, right: tuple[str, ...] = ()) -> Any:
    """Return an empty rich table without lines; the columns in `right` hold numbers."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Any = "right" if column in right else "left"
        made.add_column(column, justify=justify, overflow="fold")
    return made


def print_table(made: Any) -> None:
    """Print a table; in a pipe, without the blanks that would fill its lines."""
    out = console()
    if out.is_terminal:
        out.print(made)
        return
    with out.capture() as captured:
        out.print(made)
    for line in captured.get().splitlines():
        print(line.rstrip())


def age(seconds: float) -> str:
    """Return a span of time in its two largest units, as in "3h12m"."""
    left = max(0, int(seconds))
    days, left = divmod(left, 86400)
    hours, left = divmod(left, 3600)
    minutes, left = divmod(left, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (left, "s")]
    first = next((at for at, (count, _) in enumerate(parts) if count), 3)
    return "".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"
