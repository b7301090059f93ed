"""QEMU's command line, as one golden list for each shape of machine."""

import dataclasses

import pytest

from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.qemu.command import MachinePlan, Memory, command_line
from kata.hypervisor.qemu.devices import (
    AgentPort,
    Console,
    Entropy,
    Generation,
    Monitor,
    Plan9Share,
    Slot,
    VirtioFsShare,
    Vsock,
)

pytestmark = pytest.mark.unit

_PLAN = MachinePlan(
    name="pod1",
    program="/usr/bin/qemu-system-x86_64",
    machine_type="q35",
    machine_options="",
    accelerator=Accelerator("tcg", "no vmx"),
    cpu_features="",
    vcpus=1,
    max_vcpus=2,
    memory=Memory(512, shared=False),
    kernel="/k",
    initrd="/i",
    kernel_parameters=("agent.log=info",),
    seccomp_sandbox="",
    devices=(),
)


def _value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_emulated_machine() -> None:
    command = command_line(_PLAN)
    assert command[0] == "/usr/bin/qemu-system-x86_64"
    assert _value(command, "-machine").startswith("q35,accel=tcg,memory-backend=ram0,")
    assert _value(command, "-cpu").startswith("max,")
    assert _value(command, "-m") == "512M"
    assert _value(command, "-object") == "memory-backend-ram,id=ram0,size=512M"
    assert "-nodefaults" in command
    assert "-sandbox" not in command
    parameters = _value(command, "-append").split()
    assert parameters[-1] == "agent.log=info"
    assert "console=ttyS0" in parameters


def test_processors_to_come_are_plugged_in_under_kvm_and_asleep_under_emulation() -> None:
    emulated, real = (
        command_line(dataclasses.replace(_PLAN, accelerator=accelerator))
        for accelerator in (_PLAN.accelerator, Accelerator("kvm"))
    )
    assert _value(emulated, "-smp").startswith("2,sockets=2,")
    assert "maxcpus=1" in _value(emulated, "-append").split()
    assert _value(real, "-smp").startswith("1,sockets=2,")
    assert "maxcpus" not in _value(real, "-append")


def test_kvm_passes_the_hosts_processor_with_its_features() -> None:
    plan = dataclasses.replace(_PLAN, accelerator=Accelerator("kvm"), cpu_features="pmu=off")
    command = command_line(plan)
    assert _value(command, "-cpu") == "host,pmu=off"
    assert "accel=kvm" in _value(command, "-machine")


def test_virtio_fs_needs_memory_that_another_process_can_map() -> None:
    command = command_line(dataclasses.replace(_PLAN, memory=Memory(512, shared=True)))
    assert _value(command, "-object") == "memory-backend-memfd,id=ram0,size=512M,share=on"


def test_a_clone_maps_the_templates_memory_privately_and_waits_for_its_state() -> None:
    memory = Memory(512, shared=False, path="/t/memory")
    command = command_line(dataclasses.replace(_PLAN, memory=memory, incoming=True))
    backend = "memory-backend-file,id=ram0,size=512M,mem-path=/t/memory,share=off"
    assert _value(command, "-object") == backend
    assert _value(command, "-incoming") == "defer"


def test_memory_can_be_plugged_in_up_to_a_limit() -> None:
    memory = Memory(512, shared=False, slots=10, most_mib=4096)
    command = command_line(dataclasses.replace(_PLAN, memory=memory))
    assert _value(command, "-m") == "512M,slots=10,maxmem=4096M"
    alone = dataclasses.replace(memory, most_mib=512)
    assert _value(command_line(dataclasses.replace(_PLAN, memory=alone)), "-m") == "512M"


def test_seccomp_sandbox_and_machine_options_come_from_the_configuration() -> None:
    plan = dataclasses.replace(
        _PLAN, seccomp_sandbox="on,obsolete=deny", machine_options="nvdimm=on"
    )
    command = command_line(plan)
    assert _value(command, "-sandbox") == "on,obsolete=deny"
    assert _value(command, "-machine").endswith(",nvdimm=on")


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Monitor(5), ["-chardev", "socket,id=qmp,fd=5", "-mon", "chardev=qmp,mode=control"]),
        (Console(6), ["-chardev", "socket,id=console,fd=6", "-serial", "chardev:console"]),
        (
            AgentPort(7),
            [
                "-device", "virtio-serial-pci,id=serial0,max_ports=2",
                "-chardev", "socket,id=agent,fd=7",
                "-device", "virtserialport,chardev=agent,name=agent.channel.0",
            ],
        ),
        (Vsock(8, 77), ["-device", "vhost-vsock-pci,id=vsock0,vhostfd=8,guest-cid=77"]),
        (
            Entropy("/dev/urandom"),
            ["-object", "rng-random,id=rng0,filename=/dev/urandom",
             "-device", "virtio-rng-pci,rng=rng0"],
        ),
        (Generation(), ["-device", "vmgenid,guid=auto"]),
        (Slot(2), ["-device", "pcie-root-port,id=slot2,chassis=2,slot=2"]),
        (
            Plan9Share("/a,b", "t"),
            ["-fsdev", "local,id=share0,path=/a,,b,security_model=passthrough,multidevs=remap",
             "-device", "virtio-9p-pci,fsdev=share0,mount_tag=t"],
        ),
        (
            VirtioFsShare("/s", "t", 1024),
            ["-chardev", "socket,id=share0,path=/s",
             "-device", "vhost-user-fs-pci,chardev=share0,tag=t,queue-size=1024"],
        ),
    ],
)  # fmt: skip
def test_devices_render_themselves(device: Monitor, expected: list[str]) -> None:
    assert device.arguments() == expected
    command = command_line(dataclasses.replace(_PLAN, devices=(device,)))
    assert command[-len(expected) :] == expected
