"""Kernel and initrd that cannot boot together are found out before they do."""

import json
from pathlib import Path

import pytest

from kata.hypervisor.guest_image import fault

pytestmark = pytest.mark.unit


def image(folder: Path, release: str) -> tuple[str, str]:
    """Make an image of two small files with its manifest."""
    folder.mkdir()
    files = {"vmlinux": b"kernel", "initrd.img": b"an initrd"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        "kernel": {"release": release},
        "files": {name: {"size": len(data), "sha256": ""} for name, data in files.items()},
    }
    (folder / "kata-containers-image.json").write_text(json.dumps(manifest))
    return str(folder / "vmlinux"), str(folder / "initrd.img")


def test_one_image_is_fine_also_through_links(tmp_path: Path) -> None:
    kernel, initrd = image(tmp_path / "a", "6.1")
    assert fault(kernel, initrd) == ""
    (tmp_path / "kernel").symlink_to(kernel)
    assert fault(str(tmp_path / "kernel"), initrd) == ""


@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_file_is_named(tmp_path: Path, which: int) -> None:
    paths = image(tmp_path / "a", "6.1")
    Path(paths[which]).write_bytes(b"k")
    assert f"{paths[which]} has 1 bytes" in fault(*paths)


def test_a_kernel_of_another_version_is_named(tmp_path: Path) -> None:
    kernel, _ = image(tmp_path / "a", "6.1")
    _, initrd = image(tmp_path / "b", "6.12")
    assert "is Linux 6.1 and" in fault(kernel, initrd)
    assert "has modules for 6.12" in fault(kernel, initrd)


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"kernel": {}, "files": {}}', None])
def test_files_without_a_manifest_are_taken_as_they_are(tmp_path: Path, text: str | None) -> None:
    kernel, initrd = image(tmp_path / "a", "6.1")
    manifest = tmp_path / "a" / "kata-containers-image.json"
    if text is None:
        manifest.unlink()
    else:
        manifest.write_text(text)
    Path(kernel).write_bytes(b"k")
    assert fault(kernel, initrd) == ""
