"""A folder that is made once, whole or not at all."""

from pathlib import Path

import pytest

from kata.image.kept_folder import is_kept, keep

pytestmark = pytest.mark.unit


def test_a_folder_is_made_once_for_each_key(tmp_path: Path) -> None:
    made = []

    def make(folder: str) -> None:
        made.append(folder)
        (Path(folder) / "file").write_text(str(len(made)))

    cache = str(tmp_path / "cache")
    assert not is_kept(cache, "one")
    assert (Path(keep(cache, "one", make)) / "file").read_text() == "1"
    assert (Path(keep(cache, "one", make)) / "file").read_text() == "1"
    assert is_kept(cache, "one")
    assert (Path(keep(cache, "two", make)) / "file").read_text() == "2"
    assert [path.name for path in Path(cache).iterdir()] == ["two"]


def test_a_failure_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    def fail(folder: str) -> None:
        (Path(folder) / "half").touch()
        raise RuntimeError("no")

    cache = str(tmp_path)
    keep(cache, "old", lambda folder: None)
    with pytest.raises(RuntimeError, match="no"):
        keep(cache, "new", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
