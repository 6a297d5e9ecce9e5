"""Fixtures for tests of the whole gate.

`stack` and `recorder` are one gate and the model server behind it, shared by all tests of a
session: mint keys of your own and nothing leaks from test to test. What a test breaks (kills,
restarts, other settings) it breaks on a gate of its own, from `start_stack`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lua_support import Gate as LuaGate
from lua_support import gate as lua_gate
from peers.recorder import Recorder
from peers.stack import Stack, StartStack


@pytest.fixture(scope="session")
def _shared_recorder() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


@pytest.fixture(scope="session")
def stack(_shared_recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The gate that the tests of a session share, before the shared recorder."""
    running = Stack.start(_shared_recorder.address, folder=tmp_path_factory.mktemp("stack"))
    yield running
    running.stop()


@pytest.fixture
def recorder(_shared_recorder: Recorder) -> Iterator[Recorder]:
    """The recorder behind `stack`, with nothing recorded and nothing scripted.

    Nor is anything afterwards: a later module's fixture may call before it asks for this one.
    """
    _shared_recorder.forget()
    yield _shared_recorder
    _shared_recorder.forget()


@pytest.fixture(scope="module")
def server() -> Iterator[Recorder]:
    """A recorder of the module's own, for gates of `start_stack`."""
    made = Recorder()
    yield made
    made.close()


@pytest.fixture(scope="module")
def start_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartStack]:
    """Start gates as `Stack.start` does, each in a new folder unless one is given.

    Those that a test has not stopped itself are stopped, and that is checked, after the module.
    """
    started: list[Stack] = []

    def start(upstream: str | None = None, **options: Any) -> Stack:
        folder = options.pop("folder", None) or tmp_path_factory.mktemp("stack")
        running = Stack.start(upstream, folder=folder, **options)
        started.append(running)
        return running

    yield start
    try:
        for running in started:
            if running.running:
                running.stop()
    finally:
        for running in started:
            running.kill()


@pytest.fixture(scope="module")
def _lua_gate() -> Iterator[LuaGate]:
    with lua_gate() as made:
        yield made
        assert made.errors() == 0


@pytest.fixture
def lua(_lua_gate: LuaGate) -> LuaGate:
    """Envoy with the filter alone, before a scripted model server, with nothing scripted."""
    _lua_gate.reset()
    return _lua_gate
