"""Module indexes and device aliases, on trees made for the test; insertion is recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_agent import syscalls
from kata_agent.kernel_modules import KernelModules
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.unit

DEP = """\
kernel/a/top-one.ko: kernel/a/middle.ko kernel/a/bottom.ko
kernel/a/middle.ko: kernel/a/bottom.ko
kernel/a/bottom.ko:
kernel/virtio_pci.ko:
kernel/virtio_net.ko:
"""
ALIAS = """\
# Aliases extracted from modules themselves.
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000001v* virtio_net
alias fs-odd top_one
"""


@pytest.fixture
def inserted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []

    def record(fd: int, parameters: str = "") -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        calls.append((os.path.basename(path), parameters))

    monkeypatch.setattr(syscalls, "finit_module", record)
    return calls


@pytest.fixture
def modules(tmp_path: Path) -> KernelModules:
    directory = tmp_path / "modules"
    directory.mkdir()
    (directory / "modules.dep").write_text(DEP)
    (directory / "modules.alias").write_text(ALIAS)
    (directory / "modules.builtin").write_text("kernel/fs/built-in-one.ko\n")
    for line in DEP.splitlines():
        file = directory / line.partition(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for bus, device, modalias in (
        ("pci", "0000:00:01.0", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"),
        ("pci", "0000:00:02.0", "pci:v00008086d00001237sv00001AF4sd00001100bc06sc00i00"),
        ("virtio", "virtio0", "virtio:d00000001v00001AF4"),
    ):
        entry = tmp_path / "sys/bus" / bus / "devices" / device
        entry.mkdir(parents=True)
        (entry / "modalias").write_text(modalias + "\n")
    return KernelModules(str(directory), sysfs=str(tmp_path / "sys"))


def test_dependencies_first_and_parameters_for_the_named_one(
    modules: KernelModules, inserted: list[tuple[str, str]]
) -> None:
    modules.load("top_one", "x=1")
    assert inserted == [("bottom.ko", ""), ("middle.ko", ""), ("top-one.ko", "x=1")]
    modules.load("top-one")
    modules.load("middle")
    assert len(inserted) == 3


def test_built_in_is_there(modules: KernelModules, inserted: list[tuple[str, str]]) -> None:
    modules.load("built_in_one")
    assert inserted == []


def test_absent_is_said(modules: KernelModules) -> None:
    with pytest.raises(RpcError, match="no kernel module nothing") as caught:
        modules.load("nothing")
    assert caught.value.code == StatusCode.NOT_FOUND


def test_coldplug_loads_drivers_of_what_is_there(
    modules: KernelModules, inserted: list[tuple[str, str]]
) -> None:
    assert modules.coldplug() == ["virtio_net", "virtio_pci"]
    assert [name for name, _ in inserted] == ["virtio_pci.ko", "virtio_net.ko"]
    assert modules.coldplug() == []


def test_kernel_without_modules(tmp_path: Path, inserted: list[tuple[str, str]]) -> None:
    modules = KernelModules(str(tmp_path / "none"), sysfs=str(tmp_path / "sys"))
    modules.load("9p")
    assert modules.coldplug() == []
    assert inserted == []
