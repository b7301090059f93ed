"""Word of why nobody stands by, left for the next sandbox."""

from pathlib import Path

import pytest

from kata.shim import pool

pytestmark = pytest.mark.unit


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pool, "directory", lambda: str(tmp_path))
    return str(tmp_path / "1.2")


@pytest.mark.parametrize("text", ["no kernel", "zwei\nZeilen äöü", "\udcff"])
def test_it_is_told_once(place: str, text: str) -> None:
    assert pool.failure() == ""
    pool.note_failure(place, text)
    assert pool.places() == []  # it is nobody's place
    assert pool.failure() == text.encode(errors="backslashreplace").decode()
    assert pool.failure() == ""


def test_the_last_is_told_and_none_is_too_long(place: str, tmp_path: Path) -> None:
    pool.note_failure(place, "first")
    pool.note_failure(place, "x" * 100_000)
    assert set(pool.failure(place)) == {"x"}
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_no_text_stops_nobody(place: str, tmp_path: Path) -> None:
    (tmp_path / "failure").write_bytes(b"\xff\xfe words")
    assert pool.failure().endswith(" words")
    assert pool.failure() == ""


def test_a_pool_that_has_gone_is_no_error(place: str, tmp_path: Path) -> None:
    tmp_path.rmdir()
    pool.note_failure(place, "words")
    assert pool.failure() == ""
    tmp_path.mkdir()
