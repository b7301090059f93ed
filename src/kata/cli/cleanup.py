"""`kata-ctl cleanup`: remove what sandboxes have left whose shims are gone."""

import sys
from typing import Annotated

import typer

from kata.sandbox import journal, remains


def cleanup(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Sandboxes, by id or by name; all by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only show what would be removed.")
    ] = False,
) -> None:
    """Remove what sandboxes have left whose shims are gone, and say what it was.

    A shim that is killed leaves its record, its directories and perhaps processes; containerd
    cleans up after it. This is for what containerd does not know any more: after a power cut, or
    when containerd's own state was lost. A sandbox whose shim lives is never touched, nor what is
    another runtime's. Exits with 1 if something could not be removed, or if a sandbox that was
    asked for is alive or another runtime's.
    """
    wanted = ids or []
    failed = False
    for name in remains.chosen(wanted):
        if not remains.is_ours(name):
            print(f"{name}: not a sandbox of this runtime's; left alone", file=sys.stderr)
            failed |= bool(wanted)
            continue
        if journal.Journal(name).is_alive():
            if wanted:
                print(f"{name}: its shim is alive; delete its containers instead", file=sys.stderr)
                failed = True
            continue
        failed |= not (_show(name) if dry_run else _remove(name))
    if failed:
        raise typer.Exit(1)


def _show(name: str) -> bool:
    record = remains.record(name)
    _warn_of_damage(record)
    for holding in record.holdings():
        print(f"{name}: would remove {holding}")
    return True


def _remove(name: str) -> bool:
    _warn_of_damage(remains.record(name))
    try:
        remains.remove(name, lambda what: print(f"{name}: removed {what}"))
    except FileExistsError:
        return True  # it has come to life this moment
    except OSError as error:
        print(f"{name}: not everything could be removed: {error}", file=sys.stderr)
        return False
    return True


def _warn_of_damage(record: journal.Journal) -> None:
    if record.damage:
        print(
            f"{record.name}: its journal cannot be read ({record.damage}); what belongs to it is "
            "found by its name",
            file=sys.stderr,
        )
