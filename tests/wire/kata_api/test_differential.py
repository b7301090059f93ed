"""Every message of the contract: encoded by protobuf, decoded by the plain decoder beside this file."""

import importlib
from functools import cache, partial
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_decoder import Field, Table, Value, decode

pytestmark = pytest.mark.wire

PACKAGES = {
    "kata_api.agent": ("agent", "csi", "health", "oci", "types"),
    "kata_api.containerd": (
        "bootstrap",
        "cgroups_v1",
        "cgroups_v2",
        "events",
        "events_forward",
        "runc_options",
        "runtime_options",
        "sandbox",
        "task",
        "task_types",
        "types",
    ),
}

KINDS = {
    FieldDescriptor.TYPE_STRING: ("string", st.text(max_size=5)),
    FieldDescriptor.TYPE_BYTES: ("bytes", st.binary(max_size=5)),
    FieldDescriptor.TYPE_BOOL: ("bool", st.booleans()),
    FieldDescriptor.TYPE_UINT32: ("uint32", st.integers(0, 2**32 - 1)),
    FieldDescriptor.TYPE_UINT64: ("uint64", st.integers(0, 2**64 - 1)),
    FieldDescriptor.TYPE_INT32: ("int32", st.integers(-(2**31), 2**31 - 1)),
    FieldDescriptor.TYPE_INT64: ("int64", st.integers(-(2**63), 2**63 - 1)),
    FieldDescriptor.TYPE_DOUBLE: ("double", st.floats(allow_nan=False)),
    FieldDescriptor.TYPE_ENUM: ("enum", st.nothing()),
}


def messages(module: ModuleType) -> list[type[Message]]:
    return [getattr(module, name) for name in module.DESCRIPTOR.message_types_by_name]


MODULES = [
    importlib.import_module(f"{package}.{name}_pb2")
    for package, names in PACKAGES.items()
    for name in names
]
MESSAGES = [message for module in MODULES for message in messages(module)]


@cache
def table(descriptor: Descriptor) -> Table:
    """Return numbers and names in the plain decoder's terms."""
    return {
        field.number: Field(
            field.name,
            "message" if field.message_type else KINDS[field.type][0],
            field.is_repeated,
            partial(table, field.message_type) if field.message_type else None,
        )
        for field in descriptor.fields
    }


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Value]:
    if field.enum_type:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return KINDS[field.type][1]


def is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Value]:
    """Return strategies in the plain decoder's terms: dicts, lists and scalars."""
    one = contents(field.message_type, depth - 1) if field.message_type else scalars(field)
    if is_map(field):
        key = scalars(field.message_type.fields_by_name["key"])
        value = values(field.message_type.fields_by_name["value"], depth - 1)
        entry = st.fixed_dictionaries({"key": key, "value": value})
        return st.lists(entry, min_size=1, max_size=2, unique_by=lambda item: item["key"])
    return st.lists(one, min_size=1, max_size=2) if field.is_repeated else one


def contents(descriptor: Descriptor, depth: int = 4) -> st.SearchStrategy[dict[str, Value]]:
    fields = [field for field in descriptor.fields if depth > 0 or not field.message_type]
    return st.fixed_dictionaries(
        {}, optional={field.name: values(field, depth) for field in fields}
    )


def fill(message: Message, content: dict[str, Value]) -> None:
    for name, value in content.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        target = getattr(message, name)
        if is_map(field):
            for entry in value:
                if isinstance(entry["value"], dict):
                    fill(target[entry["key"]], entry["value"])
                else:
                    target[entry["key"]] = entry["value"]
        elif field.message_type and field.is_repeated:
            for item in value:
                fill(target.add(), item)
        elif field.message_type:
            target.SetInParent()
            fill(target, value)
        elif field.is_repeated:
            target.extend(value)
        else:
            setattr(message, name, value)


def on_the_wire(descriptor: Descriptor, content: dict[str, Value]) -> dict[str, Value]:
    """Return the content without what proto3 leaves out: scalars of value zero without presence."""
    result: dict[str, Value] = {}
    for name, value in content.items():
        field = descriptor.fields_by_name[name]
        if is_map(field):
            value_field = field.message_type.fields_by_name["value"]
            nested = value_field.message_type
            result[name] = sorted(
                (
                    {**item, "value": on_the_wire(nested, item["value"])} if nested else item
                    for item in value
                ),
                key=lambda item: item["key"],
            )
        elif field.message_type and field.is_repeated:
            result[name] = [on_the_wire(field.message_type, item) for item in value]
        elif field.message_type:
            result[name] = on_the_wire(field.message_type, value)
        elif field.is_repeated or field.has_presence or _is_set(value):
            result[name] = value
    return result


def _is_set(value: Value) -> bool:
    # Negative zero is not zero on the wire.
    return bool(value) or (isinstance(value, float) and str(value) == "-0.0")


def sort_maps(descriptor: Descriptor, decoded: dict[str, Value]) -> dict[str, Value]:
    result = dict(decoded)
    for name, value in decoded.items():
        field = descriptor.fields_by_name[name]
        if is_map(field):
            nested = field.message_type.fields_by_name["value"].message_type
            entries = (
                {**item, "value": sort_maps(nested, item["value"])} if nested else item
                for item in value
            )
            result[name] = sorted(entries, key=lambda item: item["key"])
        elif field.message_type and field.is_repeated:
            result[name] = [sort_maps(field.message_type, item) for item in value]
        elif field.message_type:
            result[name] = sort_maps(field.message_type, value)
    return result


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.DESCRIPTOR.full_name)
def test_plain_decoder_reads_what_protobuf_writes(kind: type[Message]) -> None:
    descriptor: Any = kind.DESCRIPTOR

    @settings(max_examples=15, deadline=None)
    @given(contents(descriptor))
    def check(content: dict[str, Value]) -> None:
        message = kind()
        fill(message, content)
        wire = message.SerializeToString()
        assert sort_maps(descriptor, decode(wire, table(descriptor))) == on_the_wire(
            descriptor, content
        )
        assert kind.FromString(wire) == message

    check()
