"""Tensors and instances: which of them steer a server, and how many inputs they are. Pure.

What is in a tensor cannot be told in tokens, so the context is held; but a server may read each
row of a batch by itself, and each is a context then. How many there are is said by the shape, by
the first dimension of numbers, and by all dimensions of texts, which some servers read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Final

import simdjson

from authz.content import MAX_INNER_MEMBERS, FaultError, names_of
from authz.model import Reason
from authz.names import Names
from authz.shape import TENSORS, Shape

MAX_DIMENSIONS: Final = 64  # numpy's most; of more, no server makes an array
_MAX_DEPTH: Final = 1  # an event's `data`, its `inputs`, the columns in them
_MAX_TENSORS: Final = 1024
_MAX_NAMES: Final = 8192  # of all tensors' members and parameters
_MAX_SIZES: Final = 4096  # dimensions of all tensors
_MEMBERS: Final = Names(("name", "shape", "datatype", "data", "parameters"))
_PARAMETERS: Final = Names(TENSORS)
_COLUMNS: Final = Names(())  # they may be called anything
NUMBERS: Final = frozenset(
    {
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "BF16"),
    }
)


def steering_tensors(has: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of tensors, and of tensors' parameters, that steer the server. Raises FaultError."""
    found, left = list[object](), _MAX_NAMES
    for member in ("inputs", "outputs"):
        for tensor in _tensors(has, member):
            left -= len(tensor)
            names = _few_names(tensor, _MEMBERS, member, left)
            if member == "inputs" and "name" in names:
                found.append(tensor["name"])
            parameters = tensor["parameters"] if "parameters" in names else None
            if isinstance(parameters, simdjson.Object):
                left -= len(parameters)
                found += TENSORS.intersection(_few_names(parameters, _PARAMETERS, member, left))
    return tuple(name for name in found if isinstance(name, str) and name in TENSORS)


def rows(has: Mapping[str, Any], shape: Shape) -> int:
    """How many inputs a body brings that a server may read each by itself. Raises FaultError."""
    if shape.tensors:
        left, most = _MAX_SIZES, 1
        for tensor in _tensors(has, shape.content):
            sizes, found = _rows_of_tensor(tensor)
            left, most = left - sizes, max(most, found)
            if left < 0:
                detail = f"its tensors may have at most {_MAX_SIZES} dimensions. Send fewer at once"
                raise FaultError(Reason.INVALID_PARAMETER, detail, shape.content)
        return most
    return max(1, *(_instances(has.get(name)) for name in shape.input))


def rows_of(datatype: object, sizes: Sequence[int], values: int) -> int:
    """The inputs in a tensor of this type and shape, that holds so many values (0: not known)."""
    if datatype in NUMBERS and sizes:
        return sizes[0]
    return max(prod(max(1, size) for size in sizes), values)


def _tensors(has: Mapping[str, Any], member: str) -> Iterator[Any]:
    tensors = has.get(member)
    if not isinstance(tensors, simdjson.Array):
        return
    if len(tensors) > _MAX_TENSORS:
        detail = f"it may have at most {_MAX_TENSORS} tensors"
        raise FaultError(Reason.INVALID_PARAMETER, detail, member)
    for tensor in tensors:
        if isinstance(tensor, simdjson.Object):
            yield tensor


def _few_names(item: Any, read: Names, member: str, left: int) -> tuple[str, ...]:
    if left < 0:
        detail = f"its tensors may have at most {_MAX_NAMES} members and parameters"
        raise FaultError(Reason.INVALID_PARAMETER, detail, member)
    return names_of(item, read)


def _rows_of_tensor(tensor: Any) -> tuple[int, int]:
    """How many dimensions it has, and how many inputs it is."""
    shape, data = tensor.get("shape"), tensor.get("data")
    sizes = list[int]()
    if shape is not None:
        if not isinstance(shape, simdjson.Array) or len(shape) > MAX_DIMENSIONS:
            raise _no_shape()
        for size in shape:
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise _no_shape()
            sizes.append(size)
    values = len(data) if isinstance(data, simdjson.Array) else 0
    return len(sizes), rows_of(tensor.get("datatype"), sizes, values)


def _no_shape() -> FaultError:
    detail = f"the `shape` of a tensor must be a list of at most {MAX_DIMENSIONS} whole numbers"
    return FaultError(Reason.INVALID_PARAMETER, detail, "inputs")


def _instances(value: Any, depth: int = 0) -> int:
    """They are a list, or a list for each input of the model by its name, or those of an event."""
    if isinstance(value, simdjson.Array):
        return len(value)
    if not isinstance(value, simdjson.Object) or depth > _MAX_DEPTH:
        return 1
    if len(value) > MAX_INNER_MEMBERS:
        detail = f"it may have at most {MAX_INNER_MEMBERS} members"
        raise FaultError(Reason.INVALID_PARAMETER, detail, "inputs")
    names = names_of(value, _COLUMNS)
    if any("\0" in name for name in names):  # simdjson looks for what stands before it
        raise FaultError(Reason.AMBIGUOUS_BODY, "the name of an input holds a NUL", "inputs")
    return max((_instances(value[name], depth + 1) for name in names), default=1)
