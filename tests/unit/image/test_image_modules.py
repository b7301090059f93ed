"""The choice of kernel modules and their indexes, on a made-up kernel."""

import lzma
from pathlib import Path

import pytest
from elf_images import kernel_module

from kata.image.errors import ImageError
from kata.image.kernel_modules import indexes, select

pytestmark = pytest.mark.unit


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    files = {
        "drivers/virtio/virtio_ring.ko": kernel_module(name="virtio_ring", depends=""),
        "drivers/virtio/virtio.ko": kernel_module(depends="virtio_ring"),
        "drivers/char/virtio-rng.ko": kernel_module(
            depends="virtio,virtio_ring", alias=["virtio:d00000004v*", "rng"]
        ),
        "fs/ext4/ext4.ko.xz": lzma.compress(
            kernel_module(depends="jbd2,unix", softdep="pre: crc32c", alias="fs-ext4")
        ),
        "fs/jbd2/jbd2.ko": kernel_module(depends=""),
        "fs/xfs/xfs.ko": kernel_module(depends="never-there"),
    }
    for name, data in files.items():
        path = tmp_path / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "modules.builtin").write_text("kernel/net/unix/unix.ko\nkernel/fs/proc/proc.ko\n")
    return str(tmp_path)


def test_dependencies_come_along_and_what_is_built_in_does_not(kernel: str) -> None:
    modules = select(kernel, ["virtio_rng", "ext4", "proc"])
    assert [module.path for module in modules] == [
        "kernel/drivers/char/virtio-rng.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/drivers/virtio/virtio_ring.ko",
        "kernel/fs/ext4/ext4.ko",
        "kernel/fs/jbd2/jbd2.ko",
    ]
    assert all(module.data.startswith(b"\x7fELF") for module in modules)


def test_the_indexes_are_depmods(kernel: str) -> None:
    made = indexes(select(kernel, ["virtio-rng", "ext4"]), kernel)
    virtio = "kernel/drivers/virtio/virtio"
    assert made["modules.dep"].decode().splitlines() == [
        f"kernel/drivers/char/virtio-rng.ko: {virtio}.ko {virtio}_ring.ko",
        "kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko",
        "kernel/drivers/virtio/virtio_ring.ko:",
        "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko",
        "kernel/fs/jbd2/jbd2.ko:",
    ]
    assert made["modules.alias"] == (
        b"alias fs-ext4 ext4\nalias rng virtio_rng\nalias virtio:d00000004v* virtio_rng\n"
    )
    assert made["modules.softdep"] == b"softdep ext4 pre: crc32c\n"
    assert made["modules.builtin"] == b"kernel/fs/proc/proc.ko\nkernel/net/unix/unix.ko\n"


@pytest.mark.parametrize("name", ["9p", "xfs"])
def test_a_module_that_the_kernel_lacks_is_named(kernel: str, name: str) -> None:
    with pytest.raises(ImageError, match=r"has no module '(9p|never_there)'"):
        select(kernel, [name])
