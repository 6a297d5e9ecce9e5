"""Two readings of the same bytes, ours and envoy-data-plane's, brought into one form.

A *reading* is a dict from field name to value of all that is set: a message is a reading again, a
map a dict, an enum a number, a time or wrapped number what Python has for it (times to 1 µs, which
is all that envoy-data-plane keeps). Their reading covers the fields that ours knows.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Final

import betterproto2
from contract.data_plane import message_class
from google.protobuf import descriptor_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message
    from hypothesis.strategies import SearchStrategy

Reading = dict[str, Any]
Descriptor = Any  # the stubs have two of that name, and messages and fields disagree on which

# Where our .proto files differ from Envoy's on purpose, the same on the wire.
THEIR_NAMES: Final = {"tensorgate.rpc.Status": "google.rpc.Status"}
ENTRY_AS_BYTES: Final = (
    "envoy.service.accesslog.v3.StreamAccessLogsMessage.HTTPAccessLogEntries.log_entry"
)

_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_Type = descriptor_pb2.FieldDescriptorProto


def their_class(descriptor: Descriptor) -> type[betterproto2.Message]:
    """envoy-data-plane's class for a message of ours."""
    name = THEIR_NAMES.get(descriptor.full_name, descriptor.full_name)
    theirs = message_class(name)
    assert theirs is not None, f"envoy-data-plane has no {name}"
    return theirs


def our_reading(message: Message) -> Reading:
    def of_value(field: FieldDescriptor, value: Any) -> Any:
        if field.full_name == ENTRY_AS_BYTES:
            return our_reading(HTTPAccessLogEntry.FromString(value))
        match value:
            case timestamp_pb2.Timestamp():
                return value.ToDatetime(datetime.UTC)
            case duration_pb2.Duration():
                return datetime.timedelta(seconds=value.seconds) + value.nanos / 1000 * _MICROSECOND
            case wrappers_pb2.UInt32Value():
                return value.value
        return our_reading(value) if field.message_type else value

    return {field.name: _read(field, value, of_value) for field, value in message.ListFields()}


def their_reading(message: betterproto2.Message, ours: Descriptor) -> Reading:
    def of_value(field: FieldDescriptor, value: Any) -> Any:
        if not isinstance(value, betterproto2.Message):
            return value
        entry = field.full_name == ENTRY_AS_BYTES
        return their_reading(value, HTTPAccessLogEntry.DESCRIPTOR if entry else field.message_type)

    values = {field: getattr(message, field.name) for field in ours.fields}
    return {
        field.name: _read(field, value, of_value)
        for field, value in values.items()
        if value is not None and (value or field.has_presence)
    }


def _read(field: FieldDescriptor, value: Any, of_value: Any) -> Any:
    if is_map(field):
        value_field = field.message_type.fields_by_name["value"]
        return {key: of_value(value_field, each) for key, each in value.items()}
    if field.is_repeated:
        return [of_value(field, each) for each in value]
    return of_value(field, value)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def messages(descriptor: Descriptor) -> SearchStrategy[Message]:
    """Messages of ours with any fields set, every value within what both sides can hold."""
    if descriptor.full_name in _WELL_KNOWN:
        return _WELL_KNOWN[descriptor.full_name]
    make = GetMessageClass(descriptor)
    # Not more than one of a oneof: its members compete for one place.
    alone = [field for field in descriptor.fields if field.containing_oneof is None]
    places = [{field.name: _values(field)} for field in alone] + [
        {field.name: _values(field) for field in oneof.fields} for oneof in descriptor.oneofs
    ]
    choices = [
        st.just({})
        | st.one_of([st.fixed_dictionaries({name: values}) for name, values in p.items()])
        for p in places
    ]
    return st.tuples(*choices).map(
        lambda chosen: make(**{name: value for each in chosen for name, value in each.items()})
    )


def _values(field: FieldDescriptor) -> SearchStrategy[Any]:
    if is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return st.dictionaries(_single(key), _single(value), max_size=3)
    return st.lists(_single(field), max_size=3) if field.is_repeated else _single(field)


def _single(field: FieldDescriptor) -> SearchStrategy[Any]:
    if field.full_name == ENTRY_AS_BYTES:
        return messages(HTTPAccessLogEntry.DESCRIPTOR).map(lambda entry: entry.SerializeToString())
    if field.message_type:
        return messages(field.message_type)
    if field.enum_type:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return _SCALARS[field.type]


def _struct(values: dict[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_NANOS: Final = st.integers(0, 999_999).map(lambda micros: micros * 1000)
_WELL_KNOWN: Final[dict[str, SearchStrategy[Any]]] = {
    "google.protobuf.Struct": st.dictionaries(st.text(), _JSON, max_size=4).map(_struct),
    "google.protobuf.Timestamp": st.builds(
        timestamp_pb2.Timestamp, seconds=st.integers(0, 2**32), nanos=_NANOS
    ),
    "google.protobuf.Duration": st.builds(
        duration_pb2.Duration, seconds=st.integers(0, 10**7), nanos=_NANOS
    ),
    "google.protobuf.UInt32Value": st.builds(
        wrappers_pb2.UInt32Value, value=st.integers(0, 2**32 - 1)
    ),
}
_SCALARS: Final[dict[int, SearchStrategy[Any]]] = {
    _Type.TYPE_BOOL: st.booleans(),
    _Type.TYPE_BYTES: st.binary(max_size=64),
    _Type.TYPE_DOUBLE: st.floats(min_value=0.0, allow_infinity=False),  # to them, -0.0 is unset
    _Type.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    _Type.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    _Type.TYPE_STRING: st.text(max_size=32),
    _Type.TYPE_UINT32: st.integers(0, 2**32 - 1),
    _Type.TYPE_UINT64: st.integers(0, 2**64 - 1),
}
