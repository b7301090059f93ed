"""Size and naming budgets of hand-written Python: one noun a module, one page a function."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from tree import relative, with_suffix, written_python

pytestmark = pytest.mark.style

MODULE_LINES = 600
FUNCTION_LINES = 60

# Names that say nothing about what a module holds.
DRAWERS = {"util", "utils", "helper", "helpers", "common", "manager", "misc", "inner"}


def long_functions(source: str) -> list[str]:
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    sizes = ((node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions)
    return [
        f"line {node.lineno}: {node.name} has {size} lines, {FUNCTION_LINES} are allowed"
        for node, size in sizes
        if size > FUNCTION_LINES
    ]


def is_drawer(path: Path) -> bool:
    return bool(DRAWERS & {word for part in path.parts for word in Path(part).stem.split("_")})


@pytest.mark.parametrize("path", written_python(), ids=relative)
def test_module_fits_its_budget(path: Path) -> None:
    source = path.read_text()
    count = len(source.splitlines())
    assert count <= MODULE_LINES, f"{count} lines, {MODULE_LINES} are allowed"
    assert long_functions(source) == []


@pytest.mark.parametrize("path", written_python(), ids=relative)
def test_module_is_not_a_drawer(path: Path) -> None:
    assert not is_drawer(Path(relative(path))), "name the module after the one thing it holds"


def test_module_names_of_tests_are_unique() -> None:
    """pytest imports each by its bare name, and refuses a second one of that name."""
    names = Counter(path.name for path in written_python() if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", with_suffix(".py", ".pyi", ".md", ".toml", ".proto"), ids=relative)
def test_text_ends_with_a_newline(path: Path) -> None:
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")


@pytest.mark.parametrize(("lines", "is_long"), [(60, False), (61, True)])
def test_function_budget_counts_lines(lines: int, is_long: bool) -> None:
    source = "async def f():\n" + "    pass\n" * (lines - 1)
    assert bool(long_functions(source)) is is_long


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/utils.py", True),
        ("a/vm_helpers.py", True),
        ("common/a.py", True),
        ("a/mounts.py", False),
    ],
)
def test_drawer_names(name: str, expected: bool) -> None:
    assert is_drawer(Path(name)) is expected
