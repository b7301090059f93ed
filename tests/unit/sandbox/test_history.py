"""Logs of ended sandboxes: what is kept of which, and what makes way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kata.sandbox import facts, history, inventory
from kata.sandbox.history import Place
from kata.sandbox.inventory import InventoryError

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / history.CONSOLE).write_bytes(b"x" * history.LIMIT + b"the end\n")
    return folder


def test_the_end_of_the_console_is_kept_with_the_facts(run: Path, tmp_path: Path) -> None:
    history.save_ledger({"steps": []}, str(run))
    place = Place(str(tmp_path / "var" / "logs"), 2)
    history.keep(place, "pod-12345678", str(run), {"id": "pod"})
    kept = tmp_path / "var" / "logs" / "pod-12345678"
    console = (kept / history.CONSOLE).read_bytes()
    assert len(console) == history.LIMIT
    assert console.endswith(b"xthe end\n")
    assert json.loads((kept / history.LEDGER).read_text()) == {"steps": []}
    told = json.loads((kept / history.SANDBOX).read_text())
    assert told["id"] == "pod"
    assert told["ended_at"] > 1e9
    assert [path.stat().st_mode & 0o777 for path in (kept.parent, kept)] == [0o700, 0o700]
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}


def test_the_oldest_make_way_and_the_same_name_replaces(run: Path, tmp_path: Path) -> None:
    place = Place(str(tmp_path / "logs"), 2)
    for at, name in enumerate(("a-1", "b-2", "c-3")):
        history.keep(place, name, str(run), {})
        os.utime(tmp_path / "logs" / name, (at, at)) if name != "c-3" else None
    assert history.names(place.path) == ["c-3", "b-2"]
    (run / history.CONSOLE).write_text("again")
    history.keep(place, "c-3", str(run), {})
    assert history.names(place.path) == ["c-3", "b-2"]
    assert (tmp_path / "logs" / "c-3" / history.CONSOLE).read_text() == "again"


def test_nothing_is_kept_when_switched_off_or_when_there_is_nothing(
    run: Path, tmp_path: Path
) -> None:
    history.keep(Place(str(tmp_path / "logs"), 0), "a-1", str(run), {})
    (run / history.CONSOLE).unlink()
    history.keep(Place(str(tmp_path / "logs"), 2), "a-1", str(run), {})
    assert not (tmp_path / "logs").exists()


def test_a_place_that_takes_nothing_does_not_stop_a_tear_down(run: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    history.keep(Place(str(blocked), 2), "a-1", str(run), {})
    assert blocked.read_text() == "not a directory"


def test_a_link_planted_for_the_console_is_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (run / history.CONSOLE).unlink()
    (run / history.CONSOLE).symlink_to(tmp_path / "secret")
    history.keep(Place(str(tmp_path / "logs"), 2), "a-1", str(run), {})
    assert history.names(str(tmp_path / "logs")) == []
    assert list((tmp_path / "logs").iterdir()) == []


def test_the_place_is_in_the_facts() -> None:
    assert facts.log_place({"logs": {"path": "/x", "count": 3}}) == Place("/x", 3)
    assert facts.log_place({}) is None
    assert facts.log_place({"logs": {"path": 3}}) is None


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [("web", "web-11111111"), ("web-2", "web-2-22222222"), ("d", "db-33333333")],
)
def test_a_sandbox_is_called_by_any_beginning_of_its_id(prefix: str, wanted: str) -> None:
    names = ["web-11111111", "web-2-22222222", "db-33333333", "db-44444444"][:3]
    assert inventory.choose(prefix, names, "sandbox", "look") == wanted


def test_a_name_for_several_and_a_name_for_none_are_refused() -> None:
    names = ["web-11111111", "web-22222222"]
    with pytest.raises(InventoryError, match="web-11111111, web-22222222"):
        inventory.choose("web", names, "sandbox", "look")
    assert inventory.choose("web-2", names, "sandbox", "look") == "web-22222222"
    with pytest.raises(InventoryError, match="no sandbox is called x; look"):
        inventory.choose("x", names, "sandbox", "look")
