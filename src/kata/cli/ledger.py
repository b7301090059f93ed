"""`kata-ctl start-ledger`: how long each step of a start took, as bars on one line of time."""

import json
import os
import sys
from typing import Annotated, Any

import typer

from kata.cli.logs import find
from kata.cli.output import AsJson, ConfigPath, console, print_json
from kata.sandbox.history import LEDGER
from kata.sandbox.inventory import InventoryError

_BAR = 48
"""Columns of the line of time."""

_MARK = "start ledger "
"""What stands before the ledger in the shim's log."""


def start_ledger(
    sandbox: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A sandbox that runs or whose logs are kept, by the beginning of its id; - reads "
            "the shim's log, or a ledger, from standard input.",
        ),
    ],
    path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show how long each step took between containerd's `start` and the container's first process.

    Steps that overlap in time ran at once; gaps belong to containerd, between two requests.
    """
    record = _from_log(sys.stdin.read()) if sandbox == "-" else _from_file(sandbox, path)
    if as_json:
        print_json(record)
    else:
        _print(record)


def _from_file(sandbox: str, path: str | None) -> dict[str, Any]:
    file = os.path.join(find(sandbox, path), LEDGER)
    try:
        with open(file) as stream:
            return _checked(json.load(stream))
    except FileNotFoundError:
        raise InventoryError(
            f"{file} is missing: the sandbox is still starting, or was killed while it did"
        ) from None
    except ValueError as error:
        raise InventoryError(f"{file} is no start ledger: {error}") from None


def _from_log(text: str) -> dict[str, Any]:
    """Return the last ledger in a log: containerd's, whose quotes are escaped, or plain JSON."""
    candidates = [text, *(line.partition(_MARK)[2] for line in text.splitlines() if _MARK in line)]
    for candidate in reversed(candidates):
        for form in (candidate, candidate.replace('\\"', '"')):
            start = form.find("{")
            if start >= 0:
                try:
                    return _checked(json.JSONDecoder().raw_decode(form[start:])[0])
                except ValueError:
                    continue
    raise InventoryError(
        f'standard input holds no "{_MARK.strip()}" line; the shim logs it at level info'
    )


def _checked(record: Any) -> dict[str, Any]:
    """Return a ledger whose numbers are numbers; raises `ValueError`."""
    try:
        steps = [
            {
                "name": str(step["name"]),
                "begin_ms": float(step["begin_ms"]),
                "took_ms": float(step["took_ms"]),
            }
            for step in record["steps"]
        ]
        told = {"sandbox_id": str(record["sandbox_id"]), "total_ms": float(record["total_ms"])}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    failed = {"error": str(record["error"])} if record.get("error") else {}
    return {**told, "steps": steps, **failed}


def _print(record: dict[str, Any]) -> None:
    from rich.text import Text

    out = console()
    total = max(record["total_ms"], 0.01)
    out.print(Text(f"{record['sandbox_id']}  {total:.1f} ms", style="bold"), soft_wrap=True)
    for step in record["steps"]:
        first = round(step["begin_ms"] / total * _BAR)
        length = max(1, round(step["took_ms"] / total * _BAR))
        first = min(max(first, 0), _BAR - 1)
        bar = " " * first + "█" * min(length, _BAR - first)
        line = Text(f"  {step['name']:<20}{step['begin_ms']:>9.1f} +{step['took_ms']:>8.1f} ms  ")
        line.append(bar, style="cyan")
        out.print(line, soft_wrap=True)
    if record.get("error"):
        out.print(Text(record["error"], style="red"), soft_wrap=True)
