"""`kata-ctl logs`: the guest's console, with the agent's log on it, also after the sandbox's end."""

import json
import os
import sys
import time
from contextlib import suppress
from typing import Annotated, BinaryIO

import typer

from kata.cli.output import AsJson, ConfigPath, print_json, print_table, table
from kata.config import load
from kata.sandbox import history, inventory
from kata.sandbox.inventory import InventoryError, choose, id_of

_EMPTY = "a guest restored from a template says nothing while all is well"

_POLL = 0.2
"""Seconds between two looks at a console that is followed."""


def logs(
    sandbox: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A sandbox, by the beginning of its id."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the sandbox ends, or Ctrl-C.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Only the last lines.")
    ] = None,
    path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Print the console of a guest, which has its kernel's messages and the agent's log.

    Also that of a sandbox that has ended, while its logs are kept (sandbox_logs_count in
    [runtime]). Without an ID, list the sandboxes whose logs there are.
    """
    if sandbox is None:
        _list(path, as_json=as_json)
        return
    directory = find(sandbox, path)
    try:
        console = open(os.path.join(directory, history.CONSOLE), "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise InventoryError(f"{directory} has no console: its machine was never started") from None
    with console, suppress(KeyboardInterrupt):
        if not _print(console, tail) and not follow:
            print(f"kata-ctl: {console.name} is empty: {_EMPTY}", file=sys.stderr)
        while follow:
            gone = not os.path.exists(console.name)
            if not _print(console) and gone:
                break
            time.sleep(0 if gone else _POLL)


def find(prefix: str, path: str | None) -> str:
    """Return the directory with the logs of a sandbox: one that runs, else one that has ended.

    Raises `InventoryError`, and `ConfigError` where the configuration has to tell the place.
    """
    there = {each.name: each.directory for each in inventory.sandboxes()}
    if any(prefix in (name, id_of(name)) or name.startswith(prefix) for name in there):
        return there[choose(prefix, there, "sandbox", "")]
    place = load(path).runtime.sandbox_logs_path
    names = history.names(place)
    hint = f"`kata-ctl logs` lists those that run and those kept in {place}"
    return os.path.join(place, choose(prefix, names, "sandbox, running or ended,", hint))


def _print(console: BinaryIO, tail: int | None = None) -> int:
    """Print what there is from here on, as far as it is text; return how many bytes it was."""
    if console.tell() > os.fstat(console.fileno()).st_size:
        console.seek(0)  # the log has started over
    data = console.read()
    text = data.decode(errors="replace").replace("\r\n", "\n")
    # A guest must not command the terminal of whoever reads.
    text = "".join(c for c in text if c.isprintable() or c in "\n\t")
    if tail is not None:
        text = "".join(text.splitlines(keepends=True)[-tail:] if tail else [])
    sys.stdout.write(text)
    sys.stdout.flush()
    return len(data)


def _list(path: str | None, *, as_json: bool) -> None:
    found = [
        {"id": each.id, "name": each.name, "state": each.state, "directory": each.directory}
        for each in inventory.sandboxes()
    ]
    place = load(path).runtime.sandbox_logs_path
    for name in history.names(place):
        directory = os.path.join(place, name)
        facts = _facts(directory)
        found.append(
            {
                "id": str(facts.get("id") or id_of(name)),
                "name": name,
                "state": f"ended {_when(facts.get('ended_at'))}",
                "directory": directory,
            }
        )
    if as_json:
        print_json(found)
        return
    rows = table("ID", "STATE", "LOGS")
    for each in found:
        rows.add_row(each["id"], each["state"], each["directory"])
    print_table(rows)


def _facts(directory: str) -> dict[str, object]:
    with suppress(OSError, ValueError), open(os.path.join(directory, history.SANDBOX)) as file:
        return dict(json.load(file))
    return {}


def _when(at: object) -> str:
    if not isinstance(at, float):
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
