"""`kata-ctl list` and `kata-ctl show`: the sandboxes on this host, and what they use."""

import datetime
from dataclasses import asdict
from typing import Annotated, Any

import typer

from kata.cli.output import AsJson, age, print_json, print_table, table
from kata.sandbox import inventory
from kata.sandbox.inventory import Found

_COUNTED = ("AGE", "VCPUS", "MEMORY", "PSS", "CPU", "VMM", "SHIM", "CONTAINERS")
_NUMBERS = ("pid", "RSS MiB", "PSS MiB", "CPU s", "threads")
_STYLES = {"running": "green", "starting": "cyan", "standby": "cyan", "lost": "red", "dead": "red"}


def _ids(incomplete: str) -> list[str]:
    return [each.id for each in inventory.sandboxes() if each.id.startswith(incomplete)]


SandboxId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="A sandbox, by the beginning of its id.", autocompletion=_ids
    ),
]


def list_sandboxes(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only print the ids.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the sandboxes on this host, the oldest first.

    MEMORY is the guest's size, PSS what its processes use of the host, with shared pages divided
    among those that share them. A sandbox is "lost" when its machine has ended and containerd has
    not deleted it yet, and "dead" when its shim has ended: `kata-ctl cleanup` removes what it left.
    """
    found = inventory.sandboxes()
    if quiet:
        for each in found:
            print(each.id)
    elif as_json:
        print_json([plain(each) for each in found])
    else:
        _print(found)


def show(sandbox: SandboxId, as_json: AsJson = False) -> None:
    """Show one sandbox: its configuration, its containers, and what each process uses."""
    found = inventory.find(sandbox)
    if as_json:
        print_json(plain(found))
        return
    for name, value in _lines(found):
        print(f"{name:<14}{value}")
    print()
    rows = table("process", "pid", "RSS MiB", "PSS MiB", "CPU s", "threads", right=_NUMBERS)
    for each in found.processes:
        use = each.usage
        pss = "-" if use.pss_kib is None else f"{use.pss_kib / 1024:.1f}"
        cpu, rss = f"{use.cpu_seconds:.2f}", f"{use.rss_kib / 1024:.1f}"
        rows.add_row(each.name, str(each.pid), rss, pss, cpu, str(use.threads))
    print_table(rows)


def plain(found: Found) -> dict[str, Any]:
    """Return a sandbox as plain values, for JSON."""
    return {
        "id": found.id,
        "namespace": found.facts.get("namespace"),
        "name": found.name,
        "state": found.state,
        "age_seconds": round(found.age_seconds, 2),
        "vcpus": found.facts.get("vcpus"),
        "memory_mib": found.facts.get("memory_mib"),
        "vmm_pid": found.pid(inventory.VMM),
        "shim_pid": found.pid("shim"),
        "containers": list(found.containers),
        "processes": [asdict(each) for each in found.processes],
        "run_directory": found.directory,
        "socket": found.socket,
        "facts": found.facts,
    }


def _print(found: list[Found]) -> None:
    from rich.text import Text

    rows = table("ID", "NAMESPACE", "STATE", *_COUNTED, right=_COUNTED)
    for each in found:
        pss = sum(one.usage.pss_kib or one.usage.rss_kib for one in each.processes)
        cpu = sum(one.usage.cpu_seconds for one in each.processes)
        rows.add_row(
            each.id,
            str(each.facts.get("namespace", "-")),
            Text(each.state, style=_STYLES[each.state]),
            age(each.age_seconds),
            str(each.facts.get("vcpus", "-")),
            f"{each.facts.get('memory_mib', '-')} MiB",
            f"{pss / 1024:.0f} MiB",
            f"{cpu:.1f} s",
            str(each.pid(inventory.VMM) or "-"),
            str(each.pid("shim") or "-"),
            str(len(each.containers)),
        )
    print_table(rows)


def _lines(found: Found) -> list[tuple[str, str]]:
    facts = found.facts
    lines = [
        ("id", found.id),
        ("namespace", str(facts.get("namespace", "-"))),
        ("state", found.state),
        ("age", age(found.age_seconds)),
    ]
    if created := facts.get("created_at"):
        at = datetime.datetime.fromtimestamp(created, datetime.UTC)
        lines.append(("created", at.strftime("%Y-%m-%d %H:%M:%S UTC")))
    lines += [
        ("size", f"{facts.get('vcpus', '-')} vCPUs, {facts.get('memory_mib', '-')} MiB"),
        ("shared_fs", str(facts.get("shared_fs", "-"))),
        ("configuration", str(facts.get("configuration", "-"))),
        ("debug console", "yes" if facts.get("debug_console") else "no"),
        ("containers", ", ".join(found.containers) or "none"),
        ("run directory", found.directory),
        ("shim's socket", found.socket),
    ]
    lines += [("annotation", f"{k} = {v}") for k, v in facts.get("annotations", {}).items()]
    return lines
