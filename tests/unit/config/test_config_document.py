"""Line numbers: what each statement of a TOML file is found under."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config.document import Document, Key, merge, plain

pytestmark = pytest.mark.unit

TEXT = '''\
# a comment with a separator \u2028 in it
top = 1

[a.b]
plain = "x"
"quoted key" = [
  1,
  # not [a.table]
  2,
]
long = """
[not.a.table]
c = 3
"""
dotted.inner = true
inline = { x = 1, y = { z = 2 } }
[a]
after = 1
[[list]]
item = 1
[[list]]
item = 2
'''
LINES: list[tuple[Key, int]] = [
    (("top",), 2),
    (("a",), 4),
    (("a", "b"), 4),
    (("a", "b", "plain"), 5),
    (("a", "b", "quoted key"), 6),
    (("a", "b", "long"), 11),
    (("a", "b", "dotted"), 15),
    (("a", "b", "dotted", "inner"), 15),
    (("a", "b", "inline", "y", "z"), 16),
    (("a", "after"), 18),
    (("list",), 19),
    (("list", "item"), 20),
    (("nowhere",), 1),
]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("key", "line"), LINES)
def test_each_key_is_found_at_its_first_line(key: Key, line: int, newline: str) -> None:
    text = TEXT.replace("\n", newline)
    assert Document("f", text).line_of(key) == line


KEYS = st.sampled_from("abc")
TREES = st.recursive(
    st.integers(0, 9),
    lambda below: st.dictionaries(KEYS, below, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(KEYS, TREES, max_size=3)


def inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + "}"
    return str(value)


def document(tree: dict[str, object]) -> Document:
    return Document("f", "".join(f"{key} = {inline(value)}\n" for key, value in tree.items()))


def leaf(tree: object, path: Key) -> object:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return None
        tree = tree[name]
    return tree


@given(base=TABLES, over=TABLES)
def test_a_merge_holds_all_of_the_later_tree_and_no_more_than_both(
    base: dict[str, object], over: dict[str, object]
) -> None:
    merged = plain(merge(document(base).tree(), document(over).tree()).value)

    def visit(path: Key, here: object) -> None:
        first, second = leaf(base, path), leaf(over, path)
        if not isinstance(here, dict):
            assert here == (first if second is None else second)
            return
        joined = [side.keys() for side in (first, second) if isinstance(side, dict)]
        if second is not None and not (isinstance(first, dict) and isinstance(second, dict)):
            assert here == second
            return
        assert here.keys() == set().union(*joined)
        for name, value in here.items():
            visit((*path, name), value)

    visit((), merged)
    assert plain(document(base).tree().value) == tomllib.loads(document(base).text)
