"""What a machine can still be given, and what is said when it cannot."""

import pytest

from kata.hypervisor.port import Growth, HypervisorError
from kata.hypervisor.qemu.command import Memory
from kata.hypervisor.qemu.hotplug import Command, PluggedMemory, PluggedProcessor
from kata.hypervisor.qemu.room import Room

pytestmark = pytest.mark.unit


def _room(mib: int = 256, *, most: int = 1024, slots: int = 2, shared: bool = False) -> Room:
    memory = Memory(mib, shared=shared, slots=slots, most_mib=most)
    return Room(1, 3, "max-x86_64-cpu", memory)


def _give(room: Room, vcpus: int, mib: int) -> None:
    for each in room.additions(Growth(vcpus, mib)):
        room.take(each)


def test_processors_and_memory_are_numbered_on() -> None:
    room = _room(shared=True)
    assert room.additions(Growth(2, 100)) == [
        PluggedProcessor(1, "max-x86_64-cpu"),
        PluggedProcessor(2, "max-x86_64-cpu"),
        PluggedMemory(1, 128, shared=True),
    ]
    _give(room, 1, 129)
    assert (room.vcpus, room.memory_mib) == (2, 512)
    assert room.additions(Growth(1, 1)) == [
        PluggedProcessor(2, "max-x86_64-cpu"),
        PluggedMemory(2, 128, shared=True),
    ]
    assert room.additions(Growth(0, 0)) == []


def test_processors_that_sleep_are_woken_and_not_plugged_in() -> None:
    room = _room()
    room.has_sleepers = True
    (woken,) = room.additions(Growth(1, 0))
    assert isinstance(woken, PluggedProcessor)
    assert woken.commands() == []
    room.take(woken)
    assert room.vcpus == 2
    with pytest.raises(HypervisorError, match="has 2 vCPUs and can have 3, not 4"):
        room.additions(Growth(2, 0))


def test_memory_that_others_map_has_a_file() -> None:
    shared, private = (PluggedMemory(3, 128, shared=kind) for kind in (True, False))
    kinds = [each.commands()[0].arguments["qom-type"] for each in (shared, private)]
    assert kinds == ["memory-backend-memfd", "memory-backend-ram"]
    assert shared.commands()[0].arguments["share"] is True
    assert shared.backend_removal() == [Command("object-del", {"id": "ram3"})]


NO_ROOM = [
    (Growth(3, 0), 2, "has 1 vCPUs and can have 3, not 4: .*default_maxvcpus"),
    (Growth(0, 769), 2, "has 256 MiB and can have 1024, not 1025: .*default_maxmemory"),
    (Growth(0, 1), 0, "all 0 memory slots .* raise memory_slots"),
]


@pytest.mark.parametrize(("growth", "slots", "cause"), NO_ROOM)
def test_no_room(growth: Growth, slots: int, cause: str) -> None:
    with pytest.raises(HypervisorError, match=cause):
        _room(slots=slots).additions(growth)


def test_slots_are_used_up() -> None:
    room = _room()
    _give(room, 0, 1)
    _give(room, 0, 1)
    with pytest.raises(HypervisorError, match="all 2 memory slots"):
        room.additions(Growth(0, 1))


def test_the_rounding_stays_below_the_maximum() -> None:
    room = _room(most=400)
    assert room.additions(Growth(0, 140)) == [PluggedMemory(1, 128, shared=False)]
    with pytest.raises(HypervisorError, match="can have 300 MiB, 44 more than now, and takes 128"):
        _room(most=300).additions(Growth(0, 40))
    (module,) = _room(65536, most=99999).additions(Growth(0, 1))
    assert module == PluggedMemory(1, 2048, shared=False)  # a big guest has bigger blocks


def _told(device: object, status: object = 0) -> dict[str, object]:
    return {"event": "ACPI_DEVICE_OST", "data": {"info": {"device": device, "status": status}}}


def test_memory_counts_unless_the_guest_refuses_it() -> None:
    room = _room()
    _give(room, 0, 128)
    _give(room, 0, 256)
    assert room.waiting == {"dimm1": 128, "dimm2": 256}
    for nonsense in ({}, {"data": 3}, {"data": {"info": 3}}, _told("dimm3"), _told(["dimm1"])):
        assert not room.hear(nonsense)
    assert room.hear(_told("dimm1"))
    assert not room.hear(_told("dimm1", 1))  # it has taken it
    assert room.hear(_told("dimm2", 1))
    assert (room.waiting, room.refused, room.memory_mib) == ({}, 256, 384)
    # What was refused still takes its place below the maximum.
    with pytest.raises(HypervisorError, match="has 640 MiB and can have 1024"):
        room.additions(Growth(0, 385))


def test_what_was_not_plugged_in_is_given_back() -> None:
    room = _room()
    additions = room.additions(Growth(1, 128))
    for each in additions:
        room.take(each)
    for each in additions:
        room.give_back(each)
    assert (room.vcpus, room.memory_mib, room.waiting) == (1, 256, {})
