"""Links between the markdown files of the repository."""

import re
from pathlib import Path

import pytest
from tree import ROOT, relative, with_suffix

pytestmark = pytest.mark.style

_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_REFERENCE = re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, made as GitHub and MkDocs make them."""
    headings = (re.sub(r"[^\w\- ]", "", match.lower()) for match in _HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    prose = _CODE.sub("", path.read_text())
    broken = []
    for target in _LINK.findall(prose) + _REFERENCE.findall(prose):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (
            (ROOT / name.lstrip("/") if name.startswith("/") else path.parent / name)
            if name
            else path
        )
        if not file.exists():
            broken.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            broken.append(f"{target}: no such heading")
    return broken


@pytest.mark.parametrize("path", with_suffix(".md"), ids=relative)
def test_internal_links_resolve(path: Path) -> None:
    assert broken_links(path) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `b`, c\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](#here) [b](other.md#a-b-c) [c](https://example.org/x) `[d](gone.md)`\n"
        "```\n[e](gone.md)\n```\n[f](gone.md) [g](other.md#gone) [h](#gone)\n\n[i]: gone.md\n"
    )
    assert broken_links(page) == [
        "gone.md: no such file",
        "other.md#gone: no such heading",
        "#gone: no such heading",
        "gone.md: no such file",
    ]
