"""The manual of `kata-ctl`, made from the commands themselves: man pages, a page of the docs.

`python -m kata.cli.manual --share DIR` writes the man pages and the completion scripts where an
installation has them; `--docs` prints docs/kata-ctl.md.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from kata import __version__
from kata.cli.completion import PROGRAM, Shell, script
from kata.cli.ctl import COMMANDS, app, load

_SECTION = 1
_EXIT = (
    ("0", "Done; of check: containers can run."),
    ("1", "Failed; the reason is on standard error."),
    ("2", "Misused: an unknown command or option."),
)


def pages() -> Iterator[tuple[str, str]]:
    """Yield the file name and the text of each man page."""
    import typer

    yield f"{PROGRAM}.{_SECTION}", _page([PROGRAM], typer.main.get_command(app))
    for name in COMMANDS:
        yield f"{PROGRAM}-{name}.{_SECTION}", _page([PROGRAM, name], load(name))


def document() -> str:
    """Return docs/kata-ctl.md."""
    import typer

    parts = [
        "# kata-ctl\n",
        "<!-- Generated: python -m kata.cli.manual --docs > docs/kata-ctl.md -->\n",
        f"{_help(typer.main.get_command(app))}\n",
    ]
    for name in COMMANDS:
        parts += _described([PROGRAM, name], load(name), "##")
    parts.append("## Exit status\n\n| status | meaning |\n| --- | --- |")
    parts += [f"| {status} | {meaning} |" for status, meaning in _EXIT]
    return "\n".join(parts) + "\n"


def _described(words: list[str], command: Any, heading: str) -> Iterator[str]:
    yield f"{heading} {' '.join(words[1:])}\n"
    subcommands = _subcommands(command)
    if not subcommands:
        yield f"```\n{_usage(words, command)}\n```\n"
    yield f"{_help(command)}\n"
    rows = [(_spelled(each), _told(each)) for each in _parameters(command)]
    if rows:
        yield "| option | meaning |\n| --- | --- |"
        for spelled, told in rows:
            yield f"| `{spelled.replace('|', chr(92) + '|')}` | {told.replace('|', chr(92) + '|')} |"
        yield ""
    for name, each in subcommands:
        yield from _described([*words, name], each, f"{heading}#")


def _page(words: list[str], command: Any) -> str:
    title = "-".join(words)
    brief = _help(command).partition("\n")[0].rstrip(".")
    lines = [
        f'.TH "{title.upper()}" "{_SECTION}" "" "kata-containers {__version__}" "Kata Containers"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(brief)}",
        ".SH SYNOPSIS",
        *_synopsis(words, command),
        ".SH DESCRIPTION",
        _paragraphs(_help(command)),
    ]
    subcommands = _subcommands(command)
    if len(words) == 1:
        lines.append(".SH COMMANDS")
        for name, each in subcommands:
            lines += [".TP", f"\\fB{_roff(name)}\\fR", _roff(_help(each).partition("\n")[0])]
        lines += _options(command, ".SH OPTIONS")
    else:
        lines += _options(command, ".SH OPTIONS")
        for name, each in subcommands:
            lines += [f".SH {_roff(' '.join([*words, name])).upper()}", _paragraphs(_help(each))]
            lines += _options(each, ".PP")
    lines.append(".SH EXIT STATUS")
    for status, meaning in _EXIT:
        lines += [".TP", status, _roff(meaning)]
    others = [PROGRAM, *(f"{PROGRAM}-{name}" for name in COMMANDS)]
    lines.append(".SH SEE ALSO")
    lines.append(",\n".join(f"\\fB{_roff(o)}\\fR({_SECTION})" for o in others if o != title))
    return "\n".join(lines) + "\n"


def _synopsis(words: list[str], command: Any) -> Iterator[str]:
    subcommands = _subcommands(command)
    if len(words) == 1 or not subcommands:
        yield f"\\fB{_roff(_usage(words, command))}\\fR"
        return
    for at, (name, each) in enumerate(subcommands):
        if at:
            yield ".br"
        yield f"\\fB{_roff(_usage([*words, name], each))}\\fR"


def _options(command: Any, heading: str) -> Iterator[str]:
    parameters = _parameters(command)
    if parameters:
        yield heading
    for each in parameters:
        yield ".TP"
        yield f"\\fB{_roff(_spelled(each))}\\fR"
        yield _roff(_told(each))


def _subcommands(command: Any) -> list[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        return []
    return [(name, command.get_command(None, name)) for name in command.list_commands(None)]


def _parameters(command: Any) -> list[Any]:
    return [each for each in command.params if not getattr(each, "hidden", False)]


def _usage(words: list[str], command: Any) -> str:
    parts = [*words]
    if any(each.param_type_name == "option" for each in _parameters(command)):
        parts.append("[OPTIONS]")
    arguments = [each for each in _parameters(command) if each.param_type_name == "argument"]
    parts += [_spelled(each) for each in arguments]
    if _subcommands(command):
        parts.append("COMMAND [ARGS]...")
    return " ".join(parts)


def _spelled(parameter: Any) -> str:
    """Return how a parameter is written on the command line."""
    metavar = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        return str(metavar)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {metavar}"


def _told(parameter: Any) -> str:
    return " ".join((parameter.help or "").split())


def _help(command: Any) -> str:
    """Return a command's text: paragraphs of one line each, with an empty line between them."""
    text = (command.help or "").strip()
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))


def _paragraphs(text: str) -> str:
    return "\n.PP\n".join(_roff(part) for part in text.split("\n\n"))


def _roff(text: str) -> str:
    """Escape what roff(7) would take for commands."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def write(share: str) -> list[str]:
    """Write man pages and completion scripts below the folder `share`; return their paths."""
    files = {os.path.join("man", f"man{_SECTION}", name): text for name, text in pages()}
    files |= {shell.file: script(shell) + "\n" for shell in Shell}
    written = []
    for name, text in files.items():
        path = os.path.join(share, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        written.append(path)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Run the command of this module; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kata.cli.manual", description=__doc__)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--docs", action="store_true", help="print docs/kata-ctl.md")
    asked.add_argument("--share", metavar="DIR", help="write man pages and completion scripts")
    options = parser.parse_args(arguments)
    if options.docs:
        sys.stdout.write(document())
    else:
        print("\n".join(write(options.share)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
