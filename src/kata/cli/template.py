"""The commands `kata-ctl template ...`: make, list, show and remove templates of machines."""

import asyncio
import datetime
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kata.config import Configuration, load
from kata.hypervisor.isolation import isolate
from kata.hypervisor.port import HypervisorError
from kata.storage.share import TAG
from kata.template import maker
from kata.template.key import Key
from kata.template.store import Store, Template, TemplateError

app = typer.Typer(
    help="Make, list, show and remove the templates that sandboxes are restored from.",
    no_args_is_help=True,
)

_MIB = 1 << 20

Config = Annotated[
    str | None,
    typer.Option("--config", help="The configuration file; the shim's own search without it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(config: Config = None) -> None:
    """Make the template of a configuration ahead of the first start; one that is good stays."""
    # The client's own words about a machine that is ended on purpose.
    logging.getLogger("qemu").setLevel(logging.CRITICAL)
    configuration = load(config)
    if not configuration.factory.enable_template:
        _fail("enable_template = false in [factory]: nothing would use the template")
    with _watched() as progress:
        try:
            prepare = partial(isolate, configuration.hypervisor)
            asyncio.run(maker.ready(configuration, TAG, prepare, progress))
        except (TemplateError, HypervisorError) as error:
            _fail(str(error))
    template = _store(configuration).load(Key.of(configuration).name)
    if template is None:  # somebody removed it this very moment
        _fail("the template has been removed meanwhile")
    print(f"{template.name}  {template.memory_bytes / _MIB:.0f} MiB")


@app.command(name="list")
def list_templates(config: Config = None, as_json: AsJson = False) -> None:
    """List the templates; a star marks that of the configuration."""
    configuration = load(config)
    templates = list(_store(configuration).templates())
    if as_json:
        print(json.dumps([asdict(each) for each in templates], indent=2))
        return
    current = Key.of(configuration).name
    table = Table("name", "memory MiB", "made (UTC)", "took s", "here")
    for each in templates:
        made = datetime.datetime.fromtimestamp(each.made_at, datetime.UTC).strftime(
            "%Y-%m-%d %H:%M:%S"
        )
        note = "*" if each.name == current else ""
        table.add_row(
            each.name, f"{each.memory_bytes / _MIB:.0f}", made, f"{each.took_seconds:.1f}", note
        )
    Console().print(table)


@app.command()
def show(name: str, config: Config = None) -> None:
    """Show what went into a template, as JSON."""
    print(json.dumps(asdict(_find(_store(load(config)), name)), indent=2))


@app.command()
def remove(
    names: Annotated[list[str] | None, typer.Argument(help="Templates, by name.")] = None,
    config: Config = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every template.")] = False,
) -> None:
    """Remove templates; what was restored from them goes on."""
    store = _store(load(config))
    if not names and not everything:
        _fail("name templates to remove, or give --all")
    chosen = list(store.templates()) if everything else [_find(store, n) for n in names or []]
    for template in chosen:
        store.remove(template.name)
        print(f"removed {template.name}")
    if everything and os.path.isdir(store.root):
        store.sweep()


@contextmanager
def _watched() -> Iterator[Callable[[str], None]]:
    """Yield a reporter of steps: a bar for each on a terminal, a line for each elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield partial(console.print, markup=False, highlight=False)
        return
    columns = (TextColumn("{task.description:<50}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:

        def end() -> None:
            for each in bars.task_ids:
                bars.update(each, total=1, completed=1)

        def report(text: str) -> None:
            end()
            bars.add_task(text, total=None)

        yield report
        end()


def _store(configuration: Configuration) -> Store:
    return Store(configuration.factory.template_path)


def _find(store: Store, name: str) -> Template:
    template = next((each for each in store.templates() if each.name == name), None)
    if template is None:
        _fail(f"{store.root} has no template {name}; see `kata-ctl template list`")
    return template


def _fail(text: str) -> NoReturn:
    print(f"kata-ctl: {text}", file=sys.stderr)
    raise typer.Exit(1)
