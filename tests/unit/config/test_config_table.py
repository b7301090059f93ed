"""The table itself, and what is made from it: the shipped file, the page, and the import."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config import HypervisorSettings, Section, Setting, load
from kata.config.configuration import SECTIONS
from kata.config.kinds import FLAG, INTEGER, NUMBER, TEXT, TEXTS
from kata.config.reference import page
from kata.config.shipped import assets, shipped_file

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
ROWS = [(section, row) for section in SECTIONS for row in section.settings.values()]
ANNOTATED = {TEXT: str, FLAG: bool, INTEGER: int, NUMBER: float, TEXTS: tuple[str, ...]}


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Setting) else None


@pytest.mark.parametrize(("section", "row"), ROWS, ids=name_of)
def test_a_row_is_sound(section: type[Section], row: Setting) -> None:
    assert row.check(row.default) == row.default
    assert typing.get_type_hints(section)[row.name] == ANNOTATED[row.kind]
    assert row.help.endswith((".", ")"))
    if row.allowed_by:
        assert section.settings[row.allowed_by].kind is TEXTS
        assert not section.settings[row.allowed_by].annotation  # or a pod could widen its own list
    if row.annotation:
        assert section.annotated_as


def test_names_are_unambiguous() -> None:
    for section in SECTIONS:
        names = [name for row in section.settings.values() for name in (row.name, *row.aliases)]
        assert len(names) == len(set(names))
    annotations = [f"{section.annotated_as}{row.annotation}" for section, row in ROWS]
    gated = [name for name, (_, row) in zip(annotations, ROWS, strict=True) if row.annotation]
    assert len(gated) == len(set(gated))


# --- any valid value survives being written and read

TEXT_VALUES = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = {
    TEXT: TEXT_VALUES,
    FLAG: st.booleans(),
    INTEGER: st.integers(-(2**63), 2**63 - 1),
    NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    TEXTS: st.lists(TEXT_VALUES).map(tuple),
}


def values_of(row: Setting) -> st.SearchStrategy[object]:
    if not row.implemented:
        return st.just(row.default)
    if row.choices:
        return st.sampled_from(row.choices)
    if row.minimum is not None:
        high = None if row.maximum is None else int(row.maximum)
        return st.integers(int(row.minimum), high if high is not None else 2**63 - 1)
    return VALUES[row.kind]


@given(data=st.data())
def test_a_table_of_valid_values_round_trips_through_toml(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(SECTIONS))
    rows = data.draw(st.lists(st.sampled_from(list(section.settings.values())), unique=True))
    values = {row.name: data.draw(values_of(row)) for row in rows}
    lines = [f"{row.name} = {row.render(values[row.name])}" for row in rows]
    read = tomllib.loads("\n".join(lines))
    checked = {name: section.settings[name].check(value) for name, value in read.items()}
    assert checked == values
    assert all(type(checked[name]) is type(value) for name, value in values.items())


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_to_the_bit(value: float) -> None:
    assert math.copysign(1, NUMBER.accept(tomllib.loads(f"x = {NUMBER.render(value)}")["x"])) == (
        math.copysign(1, value)
    )


# --- the shipped file


def test_the_shipped_file_gives_the_defaults_back(tmp_path: Path) -> None:
    path = tmp_path / "share/configuration-qemu.toml"
    run(["--prefix", "/opt/kata", "--write", str(path)])
    assert os.listdir(path.parent) == [path.name]
    configuration = load(str(path), environ={})
    expected = assets("/opt/kata")
    assert expected["kernel"] == "/opt/kata/share/kata-containers/vmlinux.container"
    assert expected["initrd"] == "/opt/kata/share/kata-containers/kata-containers-initrd.img"
    assert configuration.hypervisor == HypervisorSettings().replace(**expected)
    assert configuration.sections()[1:] == tuple(section() for section in SECTIONS[1:])
    written = {key for key, _, origin in configuration.effective() if origin.kind == "file"}
    assert written == {f"hypervisor.qemu.{name}" for name in expected}


def test_the_shipped_file_is_valid_with_every_comment_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "configuration-qemu.toml"
    text = shipped_file(str(tmp_path))
    keys = {f"#{row.name} = " for _, row in ROWS if row.implemented and not row.asset}
    for key in keys:
        assert f"\n{key}" in text
        text = text.replace(f"\n{key}", f"\n{key[1:]}")
    path.write_text(text)
    configuration = load(str(path), environ={})
    assert configuration.hypervisor == HypervisorSettings().replace(**assets(str(tmp_path)))
    files = [origin for _, _, origin in configuration.effective() if origin.kind == "file"]
    assert len(files) == sum(row.implemented for _, row in ROWS)
    prose = [line for line in shipped_file("/opt/kata").splitlines() if line.startswith("# ")]
    assert max(map(len, prose)) <= 100


def test_virtiofsd_is_the_installations_own_where_there_is_one(tmp_path: Path) -> None:
    assert assets(str(tmp_path))["virtio_fs_daemon"].startswith("/usr/")
    daemon = tmp_path / "libexec/virtiofsd"
    daemon.parent.mkdir()
    daemon.touch()
    assert assets(str(tmp_path))["virtio_fs_daemon"] == str(daemon)


# --- the page


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == run(["--docs"])


def test_the_page_has_a_line_for_every_key() -> None:
    lines = page().splitlines()
    for _, row in ROWS:
        assert any(line.startswith(f"| `{row.name}`") for line in lines)


# --- the start path

HEAVY = "dataclasses inspect msgspec asyncio pathlib argparse json difflib glob subprocess logging"


def test_the_import_and_a_load_stay_light(tmp_path: Path) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text(shipped_file("/opt/kata"))
    code = (
        "import sys\n"
        "import kata.config\n"
        "early = set(sys.modules)\n"
        f"kata.config.load({str(path)!r}, environ={{}})\n"
        "print(*early)\n"
        "print(*sys.modules)\n"
    )
    early, late = python(["-S", "-c", code]).splitlines()
    assert not {"tomllib", *HEAVY.split()} & set(early.split())
    assert not set(HEAVY.split()) & set(late.split())
    ours = {name for name in early.split() if name.startswith("kata.config.")}
    assert ours.isdisjoint({"kata.config.reference", "kata.config.shipped"})


def run(arguments: list[str]) -> str:
    return python(["-m", "kata.config", *arguments])


def python(arguments: list[str]) -> str:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, *arguments], env=environ, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout
