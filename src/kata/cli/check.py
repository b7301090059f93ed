"""`kata-ctl check`: whether containers can run on this host, and what to do when they cannot."""

from dataclasses import asdict
from typing import Annotated

import typer

from kata.checks import Finding, Level, checks
from kata.cli.output import AsJson, ConfigPath, print_json, print_table, table

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def check(
    path: ConfigPath = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as failures.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check whether containers can run on this host.

    Each line is ok, warn (containers run, with less speed or comfort) or fail (none can), with
    what was found and what to do about it. Exits with 1 if something fails.
    """
    findings = list(checks(path))
    levels = {each.level for each in findings}
    failed = Level.FAIL in levels or (strict and Level.WARN in levels)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(each) for each in findings]})
    else:
        _print(findings)
    if failed:
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    rows = table("", "check", "found")
    for each in findings:
        found = Text(each.found)
        if each.level != Level.OK and each.remedy:
            found.append(f"\n{each.remedy}", style="italic")
        rows.add_row(Text(each.level, style=_STYLES[each.level]), each.check, found)
    print_table(rows)
    warnings = sum(each.level == Level.WARN for each in findings)
    failed = any(each.level == Level.FAIL for each in findings)
    verdict = "containers cannot run here" if failed else "containers can run here"
    print(f"{verdict}; {warnings} warnings" if warnings else verdict)
