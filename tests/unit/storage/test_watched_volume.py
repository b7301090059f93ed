"""Which volumes are copied into the guest."""

import os
from pathlib import Path

import pytest

from kata.storage import watched_volume

pytestmark = pytest.mark.unit


def _volume(tmp_path: Path) -> Path:
    volume = tmp_path / "volumes" / "kubernetes.io~configmap" / "config"
    volume.mkdir(parents=True)
    (volume / "key").write_text("value")
    return volume


def test_a_file_that_is_replaced_meanwhile_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = _volume(tmp_path)
    look = os.lstat

    def replaced(path: str) -> os.stat_result:
        os.unlink(path)
        return look(path)

    monkeypatch.setattr(os, "lstat", replaced)
    assert watched_volume.is_copied(str(volume))


def test_one_that_is_large_is_not(tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    assert watched_volume.is_copied(str(volume))
    os.truncate(volume / "key", watched_volume.MOST_BYTES + 1)
    assert not watched_volume.is_copied(str(volume))
