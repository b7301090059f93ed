"""Statistics that a guest made up: they become a message of containerd's, whatever they say."""

import random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from kata.service.metrics import metrics
from kata_api.agent import agent_pb2 as pb

pytestmark = pytest.mark.unit

_EXTREMES = {
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 0, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
}
_KEYS = ("", "oom_kill", "file", "cache", "anon", "sock", "max", "inactive_file", "2MB", "\u202e")


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.cpp_type in _EXTREMES:
        return chance.choice(_EXTREMES[field.cpp_type])
    if field.cpp_type != FieldDescriptor.CPPTYPE_STRING:
        return chance.choice((0, 1))
    return "".join(chance.choices("\0\nA\u202e\U0010ffff", k=3))


def _fill(message: Message, chance: random.Random) -> None:
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.2:
            continue
        target = getattr(message, field.name)
        kind = field.message_type
        if kind and kind.GetOptions().map_entry:
            for key in _KEYS:
                if kind.fields_by_name["value"].message_type:
                    _fill(target[key], chance)
                else:
                    target[key] = _value(kind.fields_by_name["value"], chance)
        elif field.is_repeated:
            for _ in range(chance.randrange(4)):
                if kind:
                    _fill(target.add(), chance)
                else:
                    target.append(_value(field, chance))
        elif kind:
            _fill(target, chance)
        else:
            setattr(message, field.name, _value(field, chance))


@pytest.mark.parametrize("unified", [False, True])
def test_absurd_numbers_are_passed_on_or_cut(unified: bool) -> None:
    for seed in range(400):
        usage = pb.StatsContainerResponse()
        _fill(usage, random.Random(seed))
        assert metrics(usage, unified=unified).SerializeToString()
