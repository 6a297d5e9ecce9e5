"""Health: readiness is what Envoy asks for, liveness answers from the first moment to the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from authz.health import LIVENESS, Health, serving, telling
from authz.pb import health_pb2, health_pb2_grpc


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def path(health: Health, tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "health.sock"
    assert serving(where) is None
    with telling(where, health):
        yield where
    assert serving(where) is None


def test_ready_is_what_was_said_and_after_a_drain_never_more(health: Health, path: Path) -> None:
    assert serving(path) is False
    health.serving = True
    assert serving(path) is True
    health.drain()
    assert serving(path) is False
    health.serving = True
    assert serving(path) is False


def test_who_answers_lives(health: Health, path: Path) -> None:
    assert serving(path, LIVENESS) is True
    health.serving = True
    health.drain()
    assert serving(path, LIVENESS) is True


def test_another_service_is_not_known(path: Path) -> None:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=2)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_only_this_user_and_group_may_ask(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o660


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, health: Health) -> None:
    with (
        pytest.raises(OSError, match="cannot be listened on"),
        telling(tmp_path / "none" / "h.sock", health),
    ):
        pass
