"""The commands `kata-ctl image ...`: build the guest image, show it, verify it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from kata.image import manifest
from kata.image.build import build as build_image
from kata.image.manifest import Manifest
from kata.image.progress import Progress as Report
from kata.image.progress import Step

app = typer.Typer(help="Build, show and verify the guest image.", no_args_is_help=True)

_MIB = 1024 * 1024
# Where upstream installs to, and where kata-deploy puts the venv below.
_DEFAULT_PREFIX = "/opt/kata"


def default_output() -> str:
    """Return the image's folder of the installation that this interpreter belongs to."""
    parent = os.path.dirname(sys.prefix)
    inside = sys.prefix.endswith("/opt/kata/venv")
    return os.path.join(parent if inside else _DEFAULT_PREFIX, "share/kata-containers")


def default_cache() -> str:
    """Return the user's cache folder for builds (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "kata-containers", "image")


Output = Annotated[
    str,
    typer.Option("--output", "-o", help="Folder of the image.", default_factory=default_output),
]


@app.command()
def build(
    output: Output,
    cache: Annotated[
        str,
        typer.Option(help="Folder for downloads and parts.", default_factory=default_cache),
    ],
) -> None:
    """Build the kernel and the initrd of the guest out of the distribution's packages."""
    with _watched() as report:
        made = build_image(output, cache, report)
    for name, record in sorted(made.files.items()):
        print(f"{os.path.join(output, name)}  {record.size / _MIB:.1f} MiB")


@app.command()
def show(
    output: Output,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest itself.")] = False,
) -> None:
    """Show what the image is made of."""
    found = manifest.read(output)
    if as_json:
        print(found.encode().decode(), end="")
    else:
        _print_tables(found)


@app.command()
def verify(output: Output) -> None:
    """Compare the image's files with their manifest; exit with 1 if they differ."""
    wrong = manifest.differences(output, manifest.read(output))
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        raise typer.Exit(1)
    print(f"the image in {output} is intact")


def _print_tables(found: Manifest) -> None:
    console = Console()
    facts = Table("what", "version", "SHA-256", title="guest image")
    facts.add_row("distribution", f"{found.distribution} {found.architecture}", "")
    facts.add_row("kernel", found.kernel.release, found.files[manifest.KERNEL].sha256)
    size = f"{found.files[manifest.INITRD].size / _MIB:.1f} MiB"
    facts.add_row("initrd", size, found.files[manifest.INITRD].sha256)
    modules = f"{found.python.version}, {len(found.python.modules)} modules"
    facts.add_row("Python", modules, "")
    facts.add_row("protobuf", found.protobuf.version, "")
    facts.add_row("agent", "", found.agent)
    console.print(facts)
    packages = Table("package", "version", "SHA-256", title="packages")
    for package in found.packages:
        packages.add_row(package.name, package.version, package.sha256)
    console.print(packages)


@contextmanager
def _watched() -> Iterator[Report]:
    """Yield a reporter of steps: bars on a terminal, a line for each step that is done elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_when_done
        return
    columns = (TextColumn("{task.description:<30}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[Step, TaskID] = {}

        def report(step: Step, fraction: float) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step.value, total=1.0)
            bars.update(tasks[step], completed=fraction)

        yield report


def _print_when_done(step: Step, fraction: float) -> None:
    if fraction >= 1.0:
        print(f"{step.value}: done", file=sys.stderr, flush=True)
