"""Generate authz/pb from proto/*.proto; with --check only compare, and fail if it is not current.

protoc sees the sources under the path authz/pb/. So the generated modules import each other as
authz.pb.…, and their descriptors have file names that clash with nobody's, while the protobuf
packages, which make the gRPC paths, are Envoy's.
"""

# ruff: noqa: INP001 - proto/ holds sources; a package of that name would hide Google's proto-plus

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped] # it ships no types
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
TARGET = Path("authz/pb")
GENERATED = "*_pb2*.py*"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"

_STUB_HEADER = """\
# Types for {module}_pb2_grpc.py, made by proto/generate.py. DO NOT EDIT!
from collections.abc import Iterator

import grpc

from authz.pb import {module}_pb2
"""
_SERVICE_TYPES = """
class {service}Stub:
    def __init__(self, channel: grpc.Channel) -> None: ...
{callables}

class {service}Servicer:
{methods}

def add_{service}Servicer_to_server(servicer: {service}Servicer, server: grpc.Server) -> None: ...
"""


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 when authz/pb is current, or has been made so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
    target = ROOT / TARGET
    present = {path.name: path.read_bytes() for path in target.glob(GENERATED)}
    differing = sorted(
        name for name in fresh.keys() | present.keys() if fresh.get(name) != present.get(name)
    )
    if check:
        for name in differing:
            sys.stderr.write(f"{TARGET / name} is not what proto/ says: run `make proto`\n")
        return 1 if differing else 0
    for name in differing:
        if name in fresh:
            (target / name).write_bytes(fresh[name])
        else:
            (target / name).unlink()
        sys.stdout.write(f"{TARGET / name}\n")
    return 0


def generate(scratch: Path) -> dict[str, bytes]:
    """Run protoc in the empty folder `scratch` and return what it made, by file name."""
    sources = sorted(SOURCES.glob("*.proto"))
    descriptors = scratch / "descriptors"
    _protoc(
        sources,
        f"--python_out={scratch}",
        f"--pyi_out={scratch}",
        f"--descriptor_set_out={descriptors}",
    )
    files = FileDescriptorSet.FromString(descriptors.read_bytes()).file
    services = {Path(file.name).stem: file for file in files if file.service}
    # Asked about a file without a service, the plugin would write an empty module.
    _protoc(
        [source for source in sources if source.stem in services],
        f"--grpc_python_out=grpc_2_0:{scratch}",
    )
    for module, file in services.items():
        (scratch / TARGET / f"{module}_pb2_grpc.pyi").write_text(_service_stub(module, file))
    return {path.name: path.read_bytes() for path in (scratch / TARGET).glob(GENERATED)}


def _protoc(sources: list[Path], *outputs: str) -> None:
    paths = [f"-I{TARGET}={SOURCES}", f"-I{WELL_KNOWN}"]
    if protoc.main(["protoc", *paths, *outputs, *map(str, sources)]):
        sys.exit("protoc failed: its messages are above")


def _service_stub(module: str, file: FileDescriptorProto) -> str:
    """Say in types what the gRPC plugin wrote without any."""
    bodies = (_service_types(module, service) for service in file.service)
    return _STUB_HEADER.format(module=module) + "".join(bodies)


def _service_types(module: str, service: ServiceDescriptorProto) -> str:
    callables, methods = [], []
    for method in service.method:
        request, response = (
            f"{module}_pb2.{name.rpartition('.')[2]}"
            for name in (method.input_type, method.output_type)
        )
        kind = "".join(
            "Stream" if streaming else "Unary"
            for streaming in (method.client_streaming, method.server_streaming)
        )
        callables.append(f"    {method.name}: grpc.{kind}MultiCallable[{request}, {response}]")
        if method.client_streaming:
            argument = f"request_iterator: Iterator[{request}]"
        else:
            argument = f"request: {request}"
        result = f"Iterator[{response}]" if method.server_streaming else response
        methods.append(
            f"    def {method.name}(\n"
            f"        self, {argument}, context: grpc.ServicerContext\n"
            f"    ) -> {result}: ..."
        )
    return _SERVICE_TYPES.format(
        service=service.name, callables="\n".join(callables), methods="\n".join(methods)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
