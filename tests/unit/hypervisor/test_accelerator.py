"""The choice of the accelerator: all three conditions of KVM."""

from pathlib import Path

import pytest

from kata.hypervisor.accelerator import choose

pytestmark = pytest.mark.unit


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


def test_a_processor_without_virtualisation_is_told(cpuinfo: Path) -> None:
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu vme sse2\n")
    chosen = choose("/dev/null", str(cpuinfo))
    assert chosen.is_emulation
    assert "vmx" in chosen.reason


def test_a_missing_device_is_told(cpuinfo: Path, tmp_path: Path) -> None:
    cpuinfo.write_text("flags\t\t: fpu vmx\n")
    missing = str(tmp_path / "kvm")
    chosen = choose(missing, str(cpuinfo))
    assert chosen.is_emulation
    assert chosen.reason == f"{missing}: No such file or directory"


def test_a_device_that_makes_no_machine_is_told(cpuinfo: Path) -> None:
    cpuinfo.write_text("flags\t\t: fpu svm\n")
    chosen = choose("/dev/null", str(cpuinfo))
    assert chosen.is_emulation
    assert "/dev/null cannot create a virtual machine" in chosen.reason


def test_no_reason_means_no_emulation() -> None:
    chosen = choose()
    assert chosen.is_emulation == bool(chosen.reason)
