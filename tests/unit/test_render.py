"""Rendering Envoy's configuration: what is refused, what is computed, what can never be broken."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from authz import credential, denial, endpoints, errorshape
from authz import headers as authz_headers
from authz.model import Dialect, Place, Reason
from authz.wire import TO_REMOVE
from store.catalog import Catalog, Upstream
from store.errors import ConfigError
from store.keyformat import KeyForm, mint
from tensorgate.envoy import capacity, headers, replies, routes, yamltext
from tensorgate.envoy.cli import app
from tensorgate.envoy.options import RenderOptions, check
from tensorgate.envoy.render import render

ROOT = Path(__file__).resolve().parents[2]

# Envoy's own codes, beside those of the service: what DESIGN.md has for header faults is one word.
ENVOYS = {
    "request_timeout",
    "body_too_large",
    "upgrade_not_supported",
    "upstream_unavailable",
    "upstream_timeout",
    "malformed_request",
}


def tree(options: RenderOptions) -> Any:
    return yaml.load(render(options), yaml.CSafeLoader)


def manager(rendered: Any) -> Any:
    listener = rendered["static_resources"]["listeners"][0]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def gate_routes(rendered: Any) -> list[Any]:
    hosts = manager(rendered)["route_config"]["virtual_hosts"]
    return list(hosts[0]["routes"])


# ── What is checked in ───────────────────────────────────────────────────────────────────────────


def test_envoy_yaml_is_the_default_render() -> None:
    assert (ROOT / "envoy.yaml").read_text() == render(RenderOptions()), (
        "run: tensorgate envoy render --output envoy.yaml"
    )


def test_the_script_of_the_deploy_folder_is_the_one_that_runs() -> None:
    link = ROOT / "tensorgate" / "envoy" / "lua"
    assert link.is_symlink()
    assert link.readlink() == Path("../../deploy/lua")
    (lua,) = (f for f in manager(tree(RenderOptions()))["http_filters"] if "body_room" in f["name"])
    inlined = lua["typed_config"]["default_source_code"]["inline_string"]
    assert inlined.strip() == (ROOT / "deploy" / "lua" / "body_room.lua").read_text().strip()
    assert f'NAMESPACE = "{replies.ROOM_METADATA}"' in inlined


# ── Options ──────────────────────────────────────────────────────────────────────────────────────

RUN = Path("/run/tensorgate")
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"upstream": "localhost"}, "upstream default: localhost: write it as host:port"),
    ({"upstream": "ftp://host:1"}, "upstream default: ftp://host:1: write it as host:port"),
    ({"upstream": "a b:80"}, "not a host name"),
    ({"upstream": "http://host:80/v1"}, "not a host name"),
    ({"upstream": "host:99999"}, "write it as host:port"),
    ({"upstreams": {"GPU": Upstream("h:1")}}, "its name looks like 'gpu-a'"),
    ({"upstreams": {"gpu\n": Upstream("h:1")}}, "its name looks like 'gpu-a'"),
    ({"credential_files": {"gpu": RUN}}, "there is no upstream 'gpu'"),
    ({"credential_files": {"default": Path("x")}}, "file x: name it by its whole path"),
    ({"listen": "gate.example"}, "--listen gate.example: not an IP address"),
    ({"port": 0}, "--port 0: choose a number from 1 to 65535"),
    ({"port": 65536}, "--port 65536: choose"),
    ({"tls_cert": Path("/c.pem")}, "give both or neither"),
    ({"tls_cert": Path("/c\n"), "tls_key": Path("/k")}, "control characters"),
    ({"cors_origins": ("*", "https://a.b")}, "name it alone"),
    ({"cors_origins": ("https://a.b/",)}, "write it as browsers do"),
    ({"cors_origins": ("https://.*",)}, "write it as browsers do"),
    ({"cors_origins": ("null",)}, "write it as browsers do"),
    ({"runtime": Path("run")}, "name it by its whole path"),
    ({"runtime": Path("/" + "a" * 100)}, "a socket's path has at most 107 bytes"),
    ({"runtime": Path("/é" + "é" * 45)}, "a socket's path has at most 107 bytes"),
    ({"admin_socket": Path("/" + "a" * 107)}, "a socket's path has at most 107 bytes"),
    ({"workers": 0}, "--workers 0: choose"),
    ({"concurrency": 0}, "--concurrency 0: choose"),
    ({"body_limit_mib": 0}, "--body-limit-mib 0: choose"),
    ({"request_seconds": 0}, "--request-seconds 0: choose"),
    ({"check_seconds": 0.0}, "--check-seconds 0.0: choose"),
    ({"key_form": KeyForm(foreign="sk-(?=x)")}, "Envoy cannot evaluate '(?='"),
    ({"key_form": KeyForm(foreign=r"(a)\1")}, r"Envoy cannot evaluate '\\1'"),
    ({"key_form": KeyForm(foreign="a*+")}, "Envoy cannot evaluate '*+'"),
]


@pytest.mark.parametrize(("given", "fault"), FAULTS)
def test_what_cannot_be_used_is_said(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(RenderOptions(**given))
    assert fault in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        render(RenderOptions(upstream="x", port=0, listen="x", tls_cert=Path("/c")))
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(
    ("text", "address", "tls", "authority"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000), False, "127.0.0.1:8000"),
        ("http://vllm:8000/", ("vllm", 8000), False, "vllm:8000"),
        ("http://vllm", ("vllm", 80), False, "vllm"),
        ("https://api.example", ("api.example", 443), True, "api.example"),
        ("https://api.example:8443", ("api.example", 8443), True, "api.example:8443"),
        ("[::1]:8000", ("::1", 8000), False, "[::1]:8000"),
        ("https://[2001:db8::1]", ("2001:db8::1", 443), True, "[2001:db8::1]"),
    ],
)
def test_a_model_servers_address(
    text: str, address: tuple[str, int], tls: bool, authority: str
) -> None:
    server = check(RenderOptions(upstream=text)).servers[0]
    for door, http2 in ((server.http, False), (server.grpc, True)):
        assert (door.address.host, door.address.port) == address
        assert (door.tls, door.authority, door.http2) == (tls, authority, http2)


def test_names_are_looked_up_and_addresses_are_not() -> None:
    named = {"a": "10.0.0.7:1", "b": "[::1]:1", "c": "gpu.internal:1"}
    servers = {name: Upstream(address) for name, address in named.items()}
    clusters = tree(RenderOptions(upstreams=servers))["static_resources"]["clusters"]
    types = {c["name"]: c["type"] for c in clusters}
    assert [types[f"model-{name}"] for name in "abc"] == ["STATIC", "STATIC", "STRICT_DNS"]


def endpoints_of(cluster: str, workers: int) -> list[tuple[str, str]]:
    """Where Envoy sends its calls, and where it asks for health."""
    clusters = tree(RenderOptions(workers=workers))["static_resources"]["clusters"]
    (found,) = (each for each in clusters if each["name"] == cluster)
    rows = [e["endpoint"] for e in found["load_assignment"]["endpoints"][0]["lb_endpoints"]]
    folder = "/run/tensorgate/"
    return [
        (
            row["address"]["pipe"]["path"].removeprefix(folder),
            row["health_check_config"]["address"]["pipe"]["path"].removeprefix(folder),
        )
        for row in rows
    ]


def test_each_worker_is_an_endpoint_with_a_health_of_its_own() -> None:
    assert endpoints_of("authz", 1) == [("authz-0.sock", "health.sock")]
    assert endpoints_of("log", 1) == [("log.sock", "health.sock")]
    assert endpoints_of("authz", 3) == [(f"authz-{n}.sock", f"health-{n}.sock") for n in range(3)]
    assert endpoints_of("log", 3) == [("log.sock", "health-log.sock")]


def test_only_of_several_workers_one_is_left_alone() -> None:
    for workers in (1, 2):
        clusters = tree(RenderOptions(workers=workers))["static_resources"]["clusters"]
        left_alone = [each["name"] for each in clusters if "outlier_detection" in each]
        assert left_alone == (["authz"] if workers > 1 else [])


# ── Nothing that was given becomes structure ─────────────────────────────────────────────────────

HOSTILE = st.text(min_size=1, max_size=40).filter(lambda t: t.strip("/") and "\0" not in t)


@settings(max_examples=10, deadline=None)  # each is rendered and parsed three times
@given(HOSTILE, HOSTILE)
@example('a"}}\n  - evil: {', "b: *anchor")
@example("yes", "null")
@example("1e5", "0x10")
@example("\u0085\u2028\ufeff", "\U000e0001\x7f")
def test_names_and_paths_stay_values(name: str, folder: str) -> None:
    plain = RenderOptions(
        upstreams={"gpu": Upstream("h:1")}, credential_files={"gpu": Path("/plain")}
    )
    shape = _shape(tree(plain))
    try:
        rendered = tree(replace(plain, credential_files={"gpu": Path("/" + name)}))
    except ConfigError:
        pass
    else:
        assert _shape(rendered) == shape
        (secret,) = rendered["static_resources"]["secrets"]
        assert secret["generic_secret"]["secret"]["filename"] == str(Path("/" + name))
    try:
        rendered = tree(replace(plain, runtime=Path("/" + folder)))
    except ConfigError:
        return
    assert _shape(rendered) == shape
    admin = rendered["admin"]["address"]["pipe"]["path"]
    assert admin == str(Path("/" + folder) / "envoy-admin.sock")


def _shape(value: Any) -> Any:
    """Structure without scalars."""
    if isinstance(value, dict):
        return {k: _shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_shape(v) for v in value]
    return type(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(min_size=1, max_size=20), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON, st.integers(0, 60))
@example({"on": "off", "a": ["1", "-", "~", "", "08", "1:30"], ":": {"<<": "*"}}, 4)
def test_data_is_written_as_it_is(value: Any, indent: int) -> None:
    surrogate = re.compile(r"[\ud800-\udfff]")
    if surrogate.search(repr(value)):
        return
    assert yaml.safe_load(yamltext.flow(value)) == value
    text = " " * indent + yamltext.block(value, indent)
    assert yaml.safe_load(text) == value


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────

PLANS = {
    "body_limit_mib": st.integers(1, 256),
    "connections": st.integers(1, 20_000),
    "streams": st.integers(1, 200),
    "concurrency": st.integers(1, 64),
}


@given(heap_mib=st.integers(1, 200_000), **PLANS)
def test_the_sum_of_what_can_be_held_fits(
    heap_mib: int, body_limit_mib: int, connections: int, streams: int, concurrency: int
) -> None:
    asked = {
        "body_limit_mib": body_limit_mib,
        "connections": connections,
        "streams": streams,
        "concurrency": concurrency,
    }
    try:
        planned = capacity.plan(heap_mib=heap_mib, **asked)
    except ConfigError as fault:
        (sentence,) = fault.faults
        least = int(re.search(r"is below (\d+)", sentence)[1])  # type: ignore[index]
        assert least > heap_mib
        assert capacity.plan(heap_mib=least, **asked).room >= body_limit_mib * capacity.MIB
        return
    small = connections * streams * (capacity.SMALL_BODY + capacity.HEADERS_KIB * capacity.KIB)
    checks = capacity.CHECKS * 2 * capacity.SMALL_BODY
    logs = concurrency * capacity.LOG_BUFFER
    # whole, as the message to the service, as its frame
    long = planned.room * concurrency * 3
    assert small + checks + logs + long <= 0.9 * planned.heap
    assert planned.room >= planned.prompt_body == body_limit_mib * capacity.MIB


def test_the_plan_is_what_envoy_is_told() -> None:
    options = RenderOptions(heap_mib=2048, max_connections=100, max_streams=8, body_limit_mib=16)
    planned = capacity.plan(
        heap_mib=2048, body_limit_mib=16, connections=100, streams=8, concurrency=2
    )
    rendered = tree(options)
    overload = rendered["overload_manager"]
    limits = [monitor["typed_config"] for monitor in overload["resource_monitors"]]
    assert limits[0]["max_heap_size_bytes"] == planned.heap == 2048 * capacity.MIB
    assert limits[1]["max_active_downstream_connections"] == 100
    http = manager(rendered)
    assert http["http2_protocol_options"]["max_concurrent_streams"] == 8
    assert http["max_request_headers_kb"] == capacity.HEADERS_KIB
    contexts = [
        config["tensorgate.body_room"]["filter_context"]
        for route in gate_routes(rendered)
        if "tensorgate.body_room" in (config := route.get("typed_per_filter_config", {}))
    ]
    prompt, other = {"room": planned.room, "limit": 16 * capacity.MIB}, capacity.MIB
    assert contexts == [prompt] * 4 + [{"room": planned.room, "limit": other}] * 4


def test_only_routes_with_room_take_more_than_anybody_may_send() -> None:
    limits = {"ext_authz": capacity.SMALL_BODY}
    for route in gate_routes(tree(RenderOptions())):
        config = route.get("typed_per_filter_config", {})
        settings = config.get("envoy.filters.http.ext_authz", {}).get("check_settings")
        if settings == {"disable_request_body_buffering": True}:  # it takes none at all
            continue
        assert (settings is not None) == ("tensorgate.body_room" in config)
        if settings:
            most = settings["with_request_body"]["max_request_bytes"]
            assert most == config["tensorgate.body_room"]["filter_context"]["limit"]
            limits[route["name"]] = most
    assert limits == {
        "ext_authz": capacity.SMALL_BODY,
        "prompt": 32 * capacity.MIB,
        "other": capacity.MIB,
    }


# ── Routes ───────────────────────────────────────────────────────────────────────────────────────

CATALOG = """
models:
  "qwen*": {price: {input: 1}, context_tokens: 9, upstream: b}
default: {price: {input: 1}, context_tokens: 9}
upstreams: {a: "10.0.0.1:1", b: {address: "10.0.0.2:1", grpc: "10.0.0.2:2"}}
native_model: qwen-mini
endpoints:
  - {name: mine, path: "/mine/{model}:do", model: path, input: text}
  - {name: listed, path: /mine, method: GET, lane: listing, model: server}
plans: {free: {}}
default_plan: free
"""


@cache
def several_servers() -> tuple[Catalog, RenderOptions, list[Any]]:
    catalog = Catalog.parse(CATALOG, "test")
    rows = endpoints.table_of(catalog).rows
    options = RenderOptions(upstreams=catalog.upstreams, endpoints=rows)
    return catalog, options, gate_routes(tree(options))


def route_of(path: str, said: str | None) -> Any:
    """The first route of a call that the service let pass, naming this upstream or none."""
    _, _, rendered = several_servers()
    for route in rendered:
        match = route["match"]
        (header,) = match.get("headers", [None])[:1]
        if "dynamic_metadata" not in match or not path.startswith(match["prefix"]):
            continue
        if header is not None:
            assert header["name"] == "x-tensorgate-upstream"
            if header.get("string_match") != (said and {"exact": said}):
                continue
        return route
    raise AssertionError("no route")


@pytest.mark.parametrize("said", [None, "a", "b"])
def test_the_service_says_which_server_and_the_path_by_which_protocol(said: str | None) -> None:
    catalog, _, _ = several_servers()
    grpc_path = "/inference.GRPCInferenceService/ModelInfer"
    for path, kind in (("/v1/chat/completions", ""), (grpc_path, "-grpc")):
        cluster = route_of(path, said)["route"]["cluster"]
        assert cluster == f"model-{said or 'default'}{kind}"
    assert set(catalog.upstreams) == {"a", "b"}


def test_a_server_that_the_configuration_does_not_have_is_not_taken_for_the_default_one() -> None:
    for path in ("/v1/chat/completions", "/inference.GRPCInferenceService/ModelInfer"):
        route = route_of(path, "of-another-catalog")
        assert (route["name"], route["route"]["cluster"]) == ("unknown-upstream", "nowhere")


def test_a_model_server_is_reached_only_with_the_services_mark() -> None:
    _, _, rendered = several_servers()
    seen = []
    for route in rendered:
        cluster = route.get("route", {}).get("cluster", "")
        if cluster.startswith("model-"):
            (mark,) = route["match"]["dynamic_metadata"]
            assert mark == routes.allowed()
            seen.append(cluster)
        else:
            assert cluster in {"", "nowhere"}
    over_http = ["model-a", "model-b", "model-default"]
    assert seen == [*(f"{name}-grpc" for name in over_http), *over_http]
    assert "x-tensorgate-upstream" in headers.NOT_UPSTREAM


def example_of(path: str) -> str:
    return re.sub(r"\{[a-z]+\}", "llama-3.1_8b", path)


def test_long_bodies_are_taken_where_the_table_has_a_call_with_one() -> None:
    _, options, rendered = several_servers()
    (limit,) = {json.dumps(r["match"]["safe_regex"]) for r in rendered if r["name"] == "prompt"}
    long = re.compile(json.loads(limit)["regex"])
    posts = [row for row in options.endpoints if row.method == "POST"]
    assert {"mine", "native.completion", "chat.completions", "grpc.infer"} <= {
        row.name for row in posts
    }
    assert all(long.fullmatch(example_of(row.path)) for row in posts)
    for path in ("/", "/mine", "/v1/models", "/v1/key", "/v2/models/m", "/mine/a/b:do", "/metrics"):
        assert not long.fullmatch(path)


def test_of_a_grpc_call_the_message_is_waited_for_only_if_it_is_read() -> None:
    _, options, rendered = several_servers()
    (unread,) = (route for route in rendered if route["name"] == "grpc-unread")
    content_type, path = unread["match"]["headers"]
    assert re.fullmatch(content_type["string_match"]["safe_regex"]["regex"], "application/grpc")
    assert path["invert_match"]
    read = re.compile(path["string_match"]["safe_regex"]["regex"])
    for row in options.endpoints:
        if row.dialect is Dialect.GRPC:
            assert (read.fullmatch(row.path) is not None) is (row.place is Place.MESSAGE)
    assert not read.fullmatch("/inference.GRPCInferenceService/ModelStreamInfer")


def test_what_a_credential_looks_like() -> None:
    form = KeyForm(("acme_", "sk-tg_"), "sk-[a-z]{8}")
    regexes = {n: re.compile(m["safe_regex"]["regex"]) for n, m in routes.credentials(form)}
    missing = {m["name"]: re.compile(m["string_match"]["safe_regex"]["regex"]) for m in
               routes.no_credential()}  # fmt: skip
    assert tuple(regexes) == tuple(missing) == credential.CREDENTIAL_HEADERS
    for key in (mint("acme_"), mint(), "sk-abcdefgh"):
        for name, regex in regexes.items():
            bearer = name == "authorization"
            assert (regex.fullmatch(key) is None) is bearer
            assert (regex.fullmatch(f"beAREr  {key}") is not None) is bearer
            assert not regex.fullmatch(f"{key},{key}")
            assert not regex.fullmatch(f"{key} ")
            assert missing[name].fullmatch(f"Bearer {key}" if bearer else key)
    for nothing in ("", "Bearer", "Bearer ", "Basic abc", "bearerx y"):
        assert not missing["authorization"].fullmatch(nothing)


# ── What Envoy says ──────────────────────────────────────────────────────────────────────────────


def said() -> list[replies.Reply]:
    return [replies._UNDONE, *replies._replies("sk-tg_…", 60)]


def test_the_vocabulary_is_closed() -> None:
    codes = {reply.code for reply in said()}
    assert codes == ENVOYS | {
        Reason.MISSING_API_KEY,
        Reason.AUTHORIZATION_UNAVAILABLE,
        Reason.NOT_FOUND,
    }


def test_words_are_short_and_say_what_to_do() -> None:
    for reply in said():
        words = reply.message
        if words.startswith("%METADATA"):  # the route says it
            continue
        assert words.endswith(".")
        assert len(re.findall(r"\.(?: |$)", words)) <= 2
    limits = (routes.SMALL_TOO_LARGE, *(c.too_large for c in routes.body_classes(capacity.MIB, ())))
    for words in limits:
        assert len(re.findall(r"\.(?: |$)", words)) == 2


def test_types_are_those_of_the_services_refusals() -> None:
    assert replies.error_body is denial.error_body
    assert (replies.REALM, replies.STOP, replies.FINAL) == (denial.REALM, denial.STOP, denial.FINAL)


@pytest.mark.parametrize("reply", said(), ids=lambda reply: reply.why)
def test_a_grpc_client_hears_of_everything_in_its_own_words(reply: replies.Reply) -> None:
    """Before any other shape: the path may be one of another dialect's."""
    mappers = list(reply.mappers())
    grpc = [mapper for mapper in mappers if "text_format_source" in mapper["body_format_override"]]
    assert grpc == mappers[: len(grpc)]
    assert len(grpc) == 1 + reply.early
    for mapper in grpc:
        assert replies.content_type(replies.GRPC_TYPE) in mapper["filter"]["and_filter"]["filters"]
        headers_ = {h["header"]["key"]: h["header"]["value"] for h in mapper["headers_to_add"]}
        assert headers_["grpc-status"] == str(errorshape.GRPC_STATUSES[reply.status])
        assert headers_["x-tensorgate-reason"] == reply.code
        text = mapper["body_format_override"]["text_format_source"]["inline_string"]
        assert text.startswith(f"{reply.code}: ")
        assert text.isascii()


@given(st.from_regex(r"/(v1|/|messages|count_tokens|x)*", fullmatch=True))
@example("/v1/messages")
@example("/v1/messagesx")
@example("/v1/messages/count_tokens")
def test_a_path_speaks_the_same_dialect_to_both(path: str) -> None:
    anthropic = endpoints.dialect_of(path) is Dialect.ANTHROPIC
    for query in ("", "?", "?beta=true"):
        assert (re.fullmatch(replies.ANTHROPIC_PATH, path + query) is not None) is anthropic


# ── Headers ──────────────────────────────────────────────────────────────────────────────────────


def test_what_the_service_takes_away_envoy_takes_away_as_well() -> None:
    gone = set(headers.NOT_ACCEPTED) | set(headers.NOT_UPSTREAM)
    assert set(TO_REMOVE) <= gone
    assert headers.CREDENTIAL_HEADERS == credential.CREDENTIAL_HEADERS


def test_every_header_of_ours_is_exposed_and_never_a_servers() -> None:
    ours = set(re.findall(r'"((?:x-|ratelimit|anthropic-|retry-after)[a-z-]*)"',
                          Path(authz_headers.__file__).read_text()
                          + Path(denial.__file__).read_text()))  # fmt: skip
    assert {"x-ratelimit-limit-requests", "retry-after", "x-tensorgate-reason"} <= ours
    assert ours <= set(headers.EXPOSED)
    for name in ours - {"retry-after"}:
        assert name in headers.SERVERS_NAMES or name.startswith(headers.SERVERS_PREFIXES)


# ── Command line ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("UPSTREAM", "CATALOG", "RUNTIME", "CORS_ORIGINS", "WORKERS", "STATE"):
        monkeypatch.delenv(f"TENSORGATE_{name}", raising=False)
    return tmp_path


def test_without_options_it_prints_what_is_checked_in(alone: Path) -> None:
    result = CliRunner().invoke(app, ["render"])
    assert result.exit_code == 0
    assert result.stdout == (ROOT / "envoy.yaml").read_text()


def test_options_environment_and_catalog(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "catalog.yaml").write_text(CATALOG)
    monkeypatch.setenv("TENSORGATE_RUNTIME", "/run/other")
    monkeypatch.setenv("TENSORGATE_CORS_ORIGINS", "https://a.example, https://b.example")
    argv = ["render", "--upstream", "https://api.example", "--port", "9000", "--listen", "::"]
    argv += ["--upstream-credential-file", "key", "--upstream-credential-file", "a=/etc/a"]
    argv += ["--output", "out.yaml"]
    result = CliRunner().invoke(app, argv)
    assert (result.exit_code, result.stdout) == (0, "")
    catalog = Catalog.parse(CATALOG, "test")
    assert (alone / "out.yaml").read_text() == render(
        RenderOptions(
            upstream="https://api.example",
            port=9000,
            listen="::",
            runtime=Path("/run/other"),
            cors_origins=("https://a.example", "https://b.example"),
            upstreams=catalog.upstreams,
            endpoints=endpoints.table_of(catalog).rows,
            credential_files={"default": alone / "key", "a": Path("/etc/a")},
        )
    )


def test_faults_are_raised_for_the_front_door(alone: Path) -> None:
    for argv in (["--heap-mib", "100"], ["--output", "/"], ["--catalog", "none.yaml"]):
        result = CliRunner().invoke(app, ["render", *argv])
        assert isinstance(result.exception, ConfigError)


def test_a_render_is_the_same_every_time() -> None:
    texts = [
        render(RenderOptions(upstreams={"a": Upstream("h:1"), "b": Upstream("i:1")}))
        for _ in range(3)
    ]
    assert all(one == other for one, other in pairwise(texts))
