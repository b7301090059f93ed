"""`kata-ctl env`: versions and paths of everything that a sandbox is made of."""

from kata.checks.environment import environment as facts_of
from kata.cli.output import AsJson, ConfigPath, console, print_json
from kata.config import load


def environment(path: ConfigPath = None, as_json: AsJson = False) -> None:
    """Print versions and paths of everything that a sandbox on this host is made of.

    For a report of a fault: what was installed, configured and found here.
    """
    facts = facts_of(load(path))
    if as_json:
        print_json(facts)
        return
    from rich.text import Text

    out = console()
    for section, values in facts.items():
        out.print(Text(f"[{section}]", style="bold"))
        for name, value in values.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            out.print(Text(f"  {name:<22}{_words(shown)}"), soft_wrap=True)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)
