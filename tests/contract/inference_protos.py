"""The open inference protocol's messages as the real protobuf library has them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

_SOURCE = Path(__file__).resolve().parent / "data" / "open_inference.proto"


@cache
def _pool() -> DescriptorPool:
    """A pool of its own: other tests may bring the same names in another file."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        flags = [f"--proto_path={_SOURCE.parent}", f"--descriptor_set_out={out}", str(_SOURCE)]
        assert protoc.main(["protoc", *flags]) == 0
        files = FileDescriptorSet.FromString(out.read_bytes())
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def message_class(name: str) -> Any:
    """The class of `inference.NAME`."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def framed(message: bytes, flag: int = 0) -> bytes:
    """A message as gRPC puts it into a body."""
    return bytes([flag]) + len(message).to_bytes(4) + message
