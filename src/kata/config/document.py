"""A TOML file as read from disk, the tree it makes, and the merge of several.

Every node of the tree remembers its document and its place in it, so that an error or an origin
can name file and line. Line numbers are worked out when somebody asks, by TOML's own parser; a
load that succeeds never needs them.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, TypeAlias

from kata.config.errors import ConfigError

Key: TypeAlias = tuple[str, ...]


class Document:
    """One TOML file: its path, its text, and its rank: 0 for the base file, then the drop-ins."""

    def __init__(self, path: str, text: str, rank: int = 0) -> None:
        self.path = path
        self.text = text
        self.rank = rank

    @classmethod
    def read(cls, path: str, rank: int = 0) -> Document:
        """Read a file; raises `ConfigError` when it cannot be read or is not UTF-8."""
        try:
            with open(path, encoding="utf-8", newline="") as file:
                return cls(path, file.read(), rank)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", "check the path and its mode") from error
        except UnicodeDecodeError as error:
            message = f"{path}: not UTF-8 at byte {error.start}"
            raise ConfigError(message, "TOML files are UTF-8") from error

    def tree(self) -> Node:
        """Parse the text; raises `ConfigError` with file and line when it is not TOML."""
        import tomllib

        try:
            return self._node(tomllib.loads(self.text), ())
        except tomllib.TOMLDecodeError as error:
            line, cause = self._blame(str(error))
            raise ConfigError(f"{self.path}:{line}: not TOML: {cause}") from error

    def line_of(self, key: Key) -> int:
        """Return the line, from 1, where a key's statement starts; 1 when it is not there."""
        return self._lines.get(key, 1)

    def _node(self, value: object, key: Key) -> Node:
        if isinstance(value, dict):
            value = {name: self._node(item, (*key, name)) for name, item in value.items()}
        return Node(value, self, key)

    def _blame(self, message: str) -> tuple[int, str]:
        """Split the parser's "cause (at line 3, column 5)" into a line and a cause."""
        cause, _, place = message.rpartition(" (at ")
        digits = place.removeprefix("line ").partition(",")[0]
        return (int(digits) if digits.isdigit() else self.text.count("\n") + 1), cause or message

    @cached_property
    def _lines(self) -> dict[Key, int]:
        """The first line of each key and table.

        A statement of TOML is a document too, and no prefix of one that ends at a line's end is:
        so lines are gathered until they parse, and the parser says which keys they hold.
        """
        import tomllib

        lines: dict[Key, int] = {}
        table: Key = ()
        start, pending = 0, ""
        for number, line in enumerate(self.text.split("\n"), start=1):
            start = start if pending else number
            pending += line + "\n"
            try:
                held = tomllib.loads(pending)
            except tomllib.TOMLDecodeError:
                continue
            found = _keys(held)
            if pending.lstrip().startswith("["):
                table = found[-1]
                found = [table[:depth] for depth in range(1, len(table) + 1)]
            else:
                found = [table + key for key in found]
            for key in found:
                lines.setdefault(key, start)
            pending = ""
        return lines


class Node(NamedTuple):
    """A value of the tree, and where it stood; a table's value is a dict of nodes."""

    value: object
    document: Document
    key: Key

    @property
    def table(self) -> dict[str, Node] | None:
        """The nodes of a table; None for any other value."""
        return self.value if isinstance(self.value, dict) else None

    @property
    def place(self) -> str:
        """File and line, as in "file:12"."""
        return f"{self.document.path}:{self.document.line_of(self.key)}"


def merge(base: Node, over: Node) -> Node:
    """Lay one tree over another: tables join, everything else is replaced by the later one."""
    if base.table is None or over.table is None:
        return over
    joined = dict(base.table)
    for name, node in over.table.items():
        joined[name] = merge(joined[name], node) if name in joined else node
    return base._replace(value=joined)


def plain(value: object) -> object:
    """Return a node's value without the places, tables as dicts of plain values."""
    if isinstance(value, dict):
        return {name: plain(node.value) for name, node in value.items()}
    return value


def _keys(held: object, above: Key = ()) -> list[Key]:
    """List the keys of a parsed statement, tables before what they hold."""
    if isinstance(held, list) and len(held) == 1:
        held = held[0]  # [[name]] opens the only item of its array
    if not isinstance(held, dict):
        return []
    found: list[Key] = []
    for name, value in held.items():
        found += [(*above, name), *_keys(value, (*above, name))]
    return found
