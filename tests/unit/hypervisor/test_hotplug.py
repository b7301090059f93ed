"""Devices that come and go, as what QEMU's monitor is told, one golden list for each."""

import json

import pytest

from kata.hypervisor.port import Disk, NetworkInterface
from kata.hypervisor.qemu.devices import Bridge, Slot, VirtioFsShare
from kata.hypervisor.qemu.hotplug import (
    Command,
    Nic,
    PluggedDisk,
    PluggedMemory,
    PluggedProcessor,
    PluggedVirtioFsShare,
)

pytestmark = pytest.mark.unit

_MAC = "02:00:00:00:00:01"


def test_interface_of_a_machine_that_boots_inherits_its_descriptors() -> None:
    arguments = Nic(NetworkInterface("net0", _MAC, (10, 11), (12, 13))).arguments()
    assert arguments[::2] == ["-netdev", "-device"]
    backend, device = (json.loads(text) for text in arguments[1::2])
    assert backend == {
        "type": "tap", "id": "net0", "fds": "10:11", "vhost": True, "vhostfds": "12:13",
    }  # fmt: skip
    assert device == {
        "driver": "virtio-net-pci", "id": "net0-nic", "netdev": "net0", "mac": _MAC,
        "romfile": "", "mq": True, "vectors": 6,
    }  # fmt: skip


def test_plugged_interface_is_handed_its_descriptors_by_name() -> None:
    nic = Nic(NetworkInterface("net1", _MAC, (10,)), Bridge().bus)
    device = {
        "driver": "virtio-net-pci", "id": "net1-nic", "netdev": "net1", "mac": _MAC,
        "romfile": "", "bus": "bridge0",
    }  # fmt: skip
    assert nic.commands() == [
        Command("getfd", {"fdname": "net1-tap-0"}, 10),
        Command("netdev_add", {"type": "tap", "id": "net1", "fds": "net1-tap-0"}),
        Command("device_add", device),
    ]
    assert nic.backend_removal() == [Command("netdev_del", {"id": "net1"})]


@pytest.mark.parametrize(("is_device", "driver"), [(True, "host_device"), (False, "file")])
def test_disk(is_device: bool, driver: str) -> None:
    disk = PluggedDisk(Disk("disk0", 9, read_only=True), 3, is_device)
    backend = {
        "node-name": "disk0", "driver": driver, "filename": "/dev/fdset/1003", "read-only": True,
        "discard": "unmap",
    }  # fmt: skip
    device = {
        "driver": "virtio-blk-pci", "id": "disk0-disk", "drive": "disk0", "serial": "disk0",
        "bus": "bridge0",
    }  # fmt: skip
    assert disk.commands() == [
        Command("add-fd", {"fdset-id": 1003}, 9),
        Command("blockdev-add", backend),
        Command("device_add", device),
    ]
    assert disk.backend_removal() == [
        Command("blockdev-del", {"node-name": "disk0"}),
        Command("remove-fd", {"fdset-id": 1003}),
    ]


def test_processor_and_memory() -> None:
    processor = {"driver": "max-x86_64-cpu", "id": "cpu2"}
    assert PluggedProcessor(2, "max-x86_64-cpu").commands() == [
        Command("device_add", processor | {"socket-id": 2, "core-id": 0, "thread-id": 0})
    ]
    size = {"id": "ram1", "size": 128 << 20, "share": True}
    assert PluggedMemory(1, 128, shared=True).commands() == [
        Command("object-add", {"qom-type": "memory-backend-memfd", **size}),
        Command("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "ram1"}),
    ]


def test_share_goes_into_its_slot() -> None:
    share = PluggedVirtioFsShare(VirtioFsShare("/s", "tag", 1024), Slot(1))
    chardev, device = share.commands()
    assert chardev.arguments["id"] == "share0"
    assert device.arguments["bus"] == "slot1"
