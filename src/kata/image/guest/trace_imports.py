"""The tracer of imports: which modules a program asks for, found by importing and reading them.

Reads one JSON object from standard input: `path` (folders besides the standard library's),
`seeds` (modules to start from), `own` (packages whose late imports count) and `absent` (modules
that the guest does without). Writes the names to import, one a line: the seeds, and what the own
packages import inside functions. `loaded_modules.py` then says what these bring along; it is a
program of its own because this one's imports would be counted too.
"""

import ast
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType


class Imports(ast.NodeVisitor):
    """The imports of one module, wherever they stand, except those for type checkers only.

    `found` holds pairs of a module's name and whether its absence is foreseen.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._guarded = False
        self.found: list[tuple[str, bool]] = []

    def visit_Import(self, node: ast.Import) -> None:
        """Take down `import a.b`."""
        self.found += [(alias.name, self._guarded) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Take down `from a import b`, and `a.b`, which may be a module."""
        parts = self._package.split(".")
        above = parts[: len(parts) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        self.found.append((module, self._guarded))
        # What is imported from a module is rarely a module itself: failing is the rule here.
        self.found += [(f"{module}.{alias.name}", True) for alias in node.names]

    def visit_If(self, node: ast.If) -> None:
        """Skip the branch that only type checkers take."""
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)
        for child in node.orelse:
            self.visit(child)

    def visit_Try(self, node: ast.Try) -> None:
        """Let an import inside `try` fail, as the program itself lets it."""
        before, self._guarded = self._guarded, True
        self.generic_visit(node)
        self._guarded = before


def follow(seeds: Sequence[str], own: Sequence[str]) -> Iterator[str]:
    """Yield the seeds, and what the own packages' modules import late, to the end.

    Raises `ImportError` if a module is missing that no `try` stands around.
    """
    for name in seeds:
        importlib.import_module(name)
        yield name
    read: set[str] = set()
    while fresh := sorted(set(sys.modules) - read):
        read.update(fresh)
        for name in fresh:
            if name.split(".")[0] in own:
                yield from import_late(sys.modules[name])


def import_late(module: ModuleType) -> Iterator[str]:
    """Import what a module's source names and has not imported yet; yield those names."""
    path = module.__file__
    if path is None or not path.endswith(".py"):
        return
    visitor = Imports(module.__spec__.parent or "" if module.__spec__ else "")
    with open(path, "rb") as stream:
        visitor.visit(ast.parse(stream.read(), path))
    for name, may_be_missing in visitor.found:
        if name in sys.modules:
            # Already here, but perhaps only because this program uses it.
            yield name
            continue
        try:
            importlib.import_module(name)
        except ImportError:
            if not may_be_missing:
                raise
        else:
            yield name


def main() -> None:
    """Trace as standard input says."""
    order = json.load(sys.stdin)
    sys.path[:] = [*sys.path[1:], *order["path"]]
    for name in order["absent"]:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python spells "not importable"
    names = dict.fromkeys(follow(order["seeds"], order["own"]))
    sys.stdout.writelines(f"{name}\n" for name in names if sys.modules.get(name) is not None)


if __name__ == "__main__":
    main()
