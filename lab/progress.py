"""Progress that a person can follow, on a terminal and in a log.

Each step is one line: a bar that moves while it works on a terminal, one line when it starts and one
when it is done elsewhere. Steps that were fresh say so only when asked to.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

CONSOLE: Final = Console(highlight=False, soft_wrap=True)


class Step:
    """A running step; tell it how far it is and it shows that."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self._bar = bar
        self._task = task
        self._shown_decile = 0

    def advance_to(self, percent: float, note: str = "") -> None:
        """Show that `percent` of 100 is done, working on `note` at the moment."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=100, completed=percent, note=note)
        elif int(percent) // 25 > self._shown_decile:
            self._shown_decile = int(percent) // 25
            CONSOLE.print(f"    {percent:3.0f} % {note}", markup=False)

    def note(self, text: str) -> None:
        """Show what is being done at the moment, without a measure of it."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=text)
        else:
            CONSOLE.print(f"    {text}", markup=False)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Show a step while its body runs, and how long it took once it is done."""
    began = time.monotonic()
    if CONSOLE.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=CONSOLE, transient=True) as bar:
            yield Step(bar, bar.add_task(title, total=None, note=""))
    else:
        CONSOLE.print(f"… {title}", markup=False)
        yield Step(None, None)
    took = time.monotonic() - began
    CONSOLE.print(f"[green]✓[/green] {title} [dim]({took:.1f} s)[/dim]")


def announce(title: str) -> None:
    """Say that a step begins which shows its own progress."""
    CONSOLE.print(f"… {title}", markup=False)
