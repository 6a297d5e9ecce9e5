"""The messages that we speak, as three sources define them: ours, Envoy's own, envoy-data-plane's.

A *schema* maps full names to what is there: "repeated string = 5" for a field, "= 429" for a value
of an enum, "(stream A) returns (B)" for a method. Enums go by names without package, dots and case.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import betterproto2
from contract.data_plane import message_class, message_name
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Schema = dict[str, str]

_NAME = FileDescriptorProto.NAME_FIELD_NUMBER
_FIELDS = {field.number for field in FileDescriptorProto.DESCRIPTOR.fields}


def schema_of(files: Iterable[FileDescriptorProto]) -> Schema:
    schema: Schema = {}
    for file in files:
        for message in file.message_type:
            schema |= _message(f"{file.package}.{message.name}", message)
        for enum in file.enum_type:
            schema |= _enum(f"{file.package}.{enum.name}", enum)
        for service in file.service:
            schema |= _service(f"{file.package}.{service.name}", service)
    return schema


def _message(name: str, message: DescriptorProto) -> Schema:
    maps = {
        f".{name}.{entry.name}": f"map<{', '.join(_type(field) for field in entry.field)}>"
        for entry in message.nested_type
        if entry.options.map_entry
    }
    schema = {
        f"{name}.{field.name}": _field(
            maps.get(field.type_name) or _type(field),
            field.number,
            repeated=field.label == field.LABEL_REPEATED and field.type_name not in maps,
            oneof=message.oneof_decl[field.oneof_index].name
            if field.HasField("oneof_index")
            else None,
        )
        for field in message.field
    }
    for nested in message.nested_type:
        if not nested.options.map_entry:
            schema |= _message(f"{name}.{nested.name}", nested)
    for enum in message.enum_type:
        schema |= _enum(f"{name}.{enum.name}", enum)
    return schema


def _field(kind: str, number: int, *, repeated: bool, oneof: str | None) -> str:
    return f"{'repeated ' * repeated}{kind} = {number}{f' in {oneof}' if oneof else ''}"


def _type(field: FieldDescriptorProto) -> str:
    if field.type == field.TYPE_ENUM:
        return _enum_name(field.type_name)
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return field.type_name.removeprefix(".") or name


def _enum(name: str, enum: EnumDescriptorProto) -> Schema:
    return {f"{_enum_name(name)}.{value.name}": f"= {value.number}" for value in enum.value}


def _enum_name(name: str) -> str:
    return "enum " + "".join(word for word in name.split(".") if word[:1].isupper()).lower()


def _service(name: str, service: ServiceDescriptorProto) -> Schema:
    return {
        f"{name}.{method.name}": (
            f"({'stream ' * method.client_streaming}{method.input_type.removeprefix('.')}) returns "
            f"({'stream ' * method.server_streaming}{method.output_type.removeprefix('.')})"
        )
        for method in service.method
    }


def schema_of_data_plane(names: Iterable[str]) -> Schema:
    """What envoy-data-plane says of those of these messages that it has, and of their enums."""
    schema: Schema = {}
    for name in names:
        message = message_class(name)
        if message is None:
            continue
        for field in fields(message):  # type: ignore[arg-type] # each of theirs is a dataclass
            meta = betterproto2.FieldMetadata.get(field)
            classes = message._betterproto.cls_by_field
            kind, value = meta, classes[field.name]
            if meta.map_meta:
                kind, value = meta.map_meta[1], classes[f"{field.name}.value"]
            spelled = _data_plane_type(kind, value)
            if meta.map_meta:
                spelled = f"map<{meta.map_meta[0].proto_type}, {spelled}>"
            schema[f"{name}.{field.name}"] = _field(
                spelled, meta.number, repeated=bool(meta.repeated), oneof=meta.group
            )
            if kind.proto_type == betterproto2.TYPE_ENUM:
                schema |= {
                    f"{spelled}.{each.proto_name or each.name}": f"= {each.value}" for each in value
                }
    return schema


def _data_plane_type(meta: betterproto2.FieldMetadata, value: Any) -> str:
    match meta.proto_type:
        case betterproto2.TYPE_ENUM:
            return f"enum {value.__name__.lower()}"
        case betterproto2.TYPE_MESSAGE:
            return message_name(meta.unwrap() if meta.unwrap else value)
    return meta.proto_type


def embedded_files(binary: Path, names: Iterable[str]) -> list[FileDescriptorProto]:
    """The descriptors that a C++ program carries in its read-only data. Raises LookupError."""
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [_embedded_file(data, name) for name in names]


def _embedded_file(data: mmap.mmap, name: str) -> FileDescriptorProto:
    head = bytes([_NAME << 3 | betterproto2.WIRE_LEN_DELIM, len(name)]) + name.encode()
    copies = [
        data[each.start() : _end(data, each.end())] for each in re.finditer(re.escape(head), data)
    ]
    if not copies:
        raise LookupError(f"the program carries no descriptor of {name}")
    # The gRPC that Envoy is linked with brings copies of its own, which say less.
    return FileDescriptorProto.FromString(max(copies, key=len))


def _end(data: mmap.mmap, position: int) -> int:
    """Where a FileDescriptorProto, read up to here, ends: before what cannot be its next field."""
    while (tag := _varint(data, position))[0] >> 3 in _FIELDS - {_NAME}:
        value, position = _varint(data, tag[1])
        if tag[0] & 7 == betterproto2.WIRE_LEN_DELIM:
            position += value
    return position


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value, length = betterproto2.decode_varint(data[position : position + 10], 0)
    return value, position + length
