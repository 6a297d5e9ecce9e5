"""The catalog: which row a name means, exact money, and the line of everything that is wrong."""

from __future__ import annotations

import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from store.catalog import (
    DEFAULT_UPSTREAM,
    Catalog,
    Offer,
    Plan,
    Price,
    Upstream,
    is_pattern,
    tag_twin,
)
from store.errors import ConfigError

REGISTRY = "Registry.Ollama.ai"
PLANS = "plans: {free: {}}\ndefault_plan: free\n"
DESIGN = """\
models:
  llama-3.1-8b:
    price: {input: 0.05, cached_input: 0.01, output: 0.08}
    context_tokens: 131072
    max_output_tokens: 8192
    aliases: ["claude-*"]
    upstream: gpu-a
  "qwen*": {price: {input: 0.2, output: 0.6}, context_tokens: 32768, max_output_tokens: 8192}
default: {price: {input: 0.5, output: 1.5}, context_tokens: 131072, max_output_tokens: 4096}
upstreams: {gpu-a: "10.0.0.7:8000"}
plans:
  free: {max_keys: 2, max_budget_usd: 5, max_rpm: 60}
  pro: {max_keys: 10, max_budget_usd: 500, max_rpm: 600, account_budget_usd: 1000}
default_plan: free
endpoints: []
"""


def catalog_of(models: str, more: str = "") -> Catalog:
    """A catalog of rows written as `name: row`, one a line."""
    rows = "".join(f"  {line}\n" for line in models.splitlines() if line)
    return Catalog.parse(f"models:\n{rows}{more}{PLANS}" if rows else more + PLANS, "a test's")


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Catalog.parse(text, "catalog.yaml")
    assert str(caught.value).startswith("The catalog catalog.yaml cannot be used:\n  ")
    return caught.value.faults


ROW = "{price: {input: 1}, context_tokens: 10}"

# ── Reading ──────────────────────────────────────────────────────────────────────────────────────


def test_the_designs_own_example() -> None:
    catalog = Catalog.parse(DESIGN, "DESIGN.md")
    llama = catalog.models["llama-3.1-8b"]
    assert llama.price == Price(50_000_000, 10_000_000, 50_000_000, 80_000_000)
    assert (llama.context_tokens, llama.max_output_tokens) == (131072, 8192)
    assert (llama.tokens_per_byte, llama.overhead_tokens) == (Decimal(1), 1024)
    assert (llama.controls, llama.stored_context, llama.continuous_usage) == (
        frozenset(),
        False,
        False,
    )
    assert (llama.aliases, llama.upstream) == (("claude-*",), "gpu-a")
    assert catalog.default is not None
    assert catalog.default.max_output_tokens == 4096
    assert catalog.plans == {
        "free": Plan("free", 2, 5_000_000_000, 60, None),
        "pro": Plan("pro", 10, 500_000_000_000, 600, 1_000_000_000_000),
    }
    assert catalog.default_plan == "free"
    assert catalog.upstreams == {"gpu-a": Upstream("10.0.0.7:8000")}
    assert list(catalog.exact_names()) == ["llama-3.1-8b"]


def test_the_catalog_that_lies_in_the_project() -> None:
    catalog = Catalog.read(Path(__file__).parents[2] / "catalog.yaml")
    assert catalog.default_plan in catalog.plans
    assert catalog.default is not None


def test_optional_members() -> None:
    row = (
        "m: {price: {output: 1}, context_tokens: 9, tokens_per_byte: 0.25, overhead_tokens: 0, "
        "continuous_usage: yes, controls: [keep_alive], stored_context: true, endless: true}"
    )
    model = catalog_of(row).models["m"]
    assert model.max_output_tokens is None
    assert (model.tokens_per_byte, model.overhead_tokens) == (Decimal("0.25"), 0)
    assert (model.continuous_usage, model.stored_context, model.endless) == (True, True, True)
    assert not catalog_of("m: {price: {output: 1}, context_tokens: 9}").models["m"].endless
    assert model.controls == {"keep_alive"}


def test_nothing_can_be_changed_once_it_is_read() -> None:
    catalog: Any = Catalog.parse(DESIGN, "")
    for mapping in (catalog.models, catalog.plans, catalog.upstreams):
        with pytest.raises(TypeError):
            mapping["x"] = 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_says_how_to_name_another(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "catalog.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"Name another with TENSORGATE_CATALOG") as caught:
        Catalog.read(path)
    assert str(path) in str(caught.value)


# ── Money ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "nanousd"),
    [
        ("0", 0),
        ("0.0375", 37_500_000),
        ("0.05", 50_000_000),
        ("'0.05'", 50_000_000),
        ("0.1", 100_000_000),
        ("0.000000001", 1),
        ("1.000000001", 1_000_000_001),
        ("15", 15_000_000_000),
        ("1_000.5", 1_000_500_000_000),
        ("1.5e+1", 15_000_000_000),
        ("999999.999999999", 999_999_999_999_999),
        ("1000000", 1_000_000_000_000_000),
    ],
)
def test_a_price_is_its_own_digits(written: str, nanousd: int) -> None:
    kinds = ["input", "cached_input", "cache_write", "output", "per_request", "per_second"]
    price = ", ".join(f"{kind}: {written}" for kind in kinds)
    model = catalog_of(f"m: {{price: {{{price}}}, context_tokens: 10}}").models["m"]
    assert model.price == Price(*[nanousd] * 6)


@given(nanousd=st.integers(0, 10**15))
def test_no_nano_dollar_is_lost(nanousd: int) -> None:
    written = f"{nanousd // 10**9}.{nanousd % 10**9:09d}"
    text = f"m: {{price: {{input: {written}}}, context_tokens: 10}}"
    plan = f"plans: {{p: {{max_budget_usd: {written}}}}}\ndefault_plan: p\n"
    catalog = Catalog.parse(f"models:\n  {text}\n{plan}", "")
    assert catalog.models["m"].price.input == nanousd
    assert catalog.plans["p"].max_budget_nanousd == nanousd


def test_kinds_of_input_that_are_not_named_cost_what_input_costs() -> None:
    price = catalog_of("m: {price: {input: 3, output: 4}, context_tokens: 10}").models["m"].price
    assert price == Price(3 * 10**9, 3 * 10**9, 3 * 10**9, 4 * 10**9, 0, 0)


def test_an_explicit_zero_is_a_price() -> None:
    offer = catalog_of("m: {price: {input: 0}, context_tokens: 10}").resolve("m")
    assert offer is not None
    assert offer.model.price == Price()


# ── Names ────────────────────────────────────────────────────────────────────────────────────────

NAMES = catalog_of(
    f"""
exact: {{price: {{input: 1}}, context_tokens: 10, aliases: [other, "q*x", "ex*", "qwen-vl-*"]}}
"q*": {ROW}
"qwen*": {ROW}
"qwen*y": {ROW}
"*coder": {ROW}
"AG*": {ROW}
second: {{price: {{input: 1}}, context_tokens: 10, aliases: ["ab*", "*yz"]}}
"ab*c": {ROW}
"*": {ROW}
""",
    "default: {price: {input: 9}, context_tokens: 10}\n",
)


@pytest.mark.parametrize(
    ("asked", "name", "row"),
    [
        ("exact", "exact", "exact"),
        ("other", "exact", "exact"),  # an alias stands for its model
        ("ex-act", "exact", "exact"),  # as does what a pattern of aliases matches
        ("q1", "q1", "q*"),  # a pattern leaves the name as it was asked for
        ("q*", "q*", "q*"),
        ("qwen3", "qwen3", "qwen*"),  # more literal characters come first
        ("qwen3y", "qwen3y", "qwen*y"),
        ("qx", "exact", "exact"),
        ("qwenx", "qwenx", "qwen*"),  # four literal characters before two
        ("qwen-vl-7b", "exact", "exact"),
        ("qwen-coder", "qwen-coder", "*coder"),  # five before four
        ("qcoder", "qcoder", "*coder"),
        ("abc", "abc", "ab*c"),
        ("abd", "second", "second"),
        ("abyz", "second", "second"),
        ("abcyz", "second", "second"),
        ("x\ny", "x\ny", "*"),
        ("EXACT", "EXACT", "exact"),  # one model for Ollama, which ignores case
        ("Other", "Other", "exact"),
        ("exact:latest", "exact:latest", "exact"),
        ("library/Exact", "library/Exact", "exact"),
        (f"https://{REGISTRY}/Library/exact:latest@x",) * 2 + ("exact",),
        ("QWEN3", "QWEN3", "qwen*"),
        ("qCODER", "qCODER", "*coder"),
        ("ag7", "ag7", "AG*"),
        ("library/qwen3:8b", "library/qwen3:8b", "qwen*"),
        ("other:8b", "other:8b", "*"),
        ("", "", "*"),
    ],
)
def test_which_row_a_name_means(asked: str, name: str, row: str) -> None:
    offer = NAMES.resolve(asked)
    assert offer == Offer(name, NAMES.models[row])


ADAPTERS = catalog_of(
    f"""
base: {ROW[:-1]}, aliases: [nick, "b-*"]}}
"base:gold": {ROW}
"base:s-*": {ROW}
"ba*": {ROW}
"*:sql": {ROW}
other: {ROW}
""",
    "default: {price: {input: 9}, context_tokens: 10}\n",
)


@pytest.mark.parametrize(
    ("base", "adapter", "name", "row"),
    [
        ("base", "gold", "base:gold", "base:gold"),  # a row of its own
        ("base", "s-1", "base:s-1", "base:s-*"),
        ("base", "x", "base:x", "base"),  # not "ba*", which says nothing of adapters
        ("nick", "x", "base:x", "base"),
        ("base", "sql", "base:sql", "*:sql"),
        ("bang", "x", "bang:x", "ba*"),
        ("bang", "sql", "bang:sql", "*:sql"),
        ("other", "x", "other:x", "other"),
        ("unheard", "x", "unheard:x", None),
    ],
)
def test_which_row_an_adapter_means(base: str, adapter: str, name: str, row: str | None) -> None:
    offer = ADAPTERS.resolve_adapter(base, adapter)
    assert offer == Offer(name, ADAPTERS.default if row is None else ADAPTERS.models[row])  # type: ignore[arg-type]


def test_an_adapter_of_a_model_without_a_row_has_none() -> None:
    assert catalog_of(f"base: {ROW}").resolve_adapter("other", "x") is None


@pytest.mark.parametrize(
    ("asked", "tagged", "plain"),
    [
        ("base", "base", "base"),
        ("base:latest", "base", "base:latest"),
        ("tagged", "tagged:latest", "tagged"),
        ("tagged:latest", "tagged:latest", "tagged:latest"),
        ("tagged:8b", "tagged:8b", "tagged:8b"),
        ("host:99/base", "host:99/base", "host:99/base"),
    ],
)
def test_a_name_without_a_tag_means_latest_on_ollamas_paths(
    asked: str, tagged: str, plain: str
) -> None:
    catalog = catalog_of(
        f'base: {ROW}\n"tagged:latest": {ROW}',
        "default: {price: {input: 9}, context_tokens: 10}\n",
    )
    one, other = catalog.resolve_tagged(asked), catalog.resolve(asked)
    assert one is not None
    assert other is not None
    assert (one.name, other.name) == (tagged, plain)
    assert one.model == other.model


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("a", "a:latest"),
        ("a:latest", "a"),
        ("a:8b", "a:8b"),
        ("org/a", "org/a:latest"),
        ("host:80/org/a", "host:80/org/a:latest"),
        ("host:80/org/a:latest", "host:80/org/a"),
    ],
)
def test_the_same_model_with_the_tag_and_without(name: str, twin: str) -> None:
    assert tag_twin(name) == twin
    assert tag_twin(twin) == name


def test_of_two_patterns_alike_the_first_in_the_file_counts() -> None:
    for first, second in (("ab*", "*cd"), ("*cd", "ab*")):
        catalog = catalog_of(f'"{first}": {ROW}\n"{second}": {ROW}')
        offer = catalog.resolve("abcd")
        assert offer is not None
        assert offer.model.name == first


def test_stars_do_not_count_as_characters() -> None:
    offer = catalog_of(f'"*m*n*": {ROW}\n"mno*": {ROW}').resolve("mno")
    assert offer is not None
    assert offer.model.name == "mno*"


def test_the_default_prices_what_nothing_names() -> None:
    catalog = Catalog.parse(DESIGN, "")
    assert catalog.default is not None
    assert catalog.resolve("unheard-of") == Offer("unheard-of", catalog.default)
    assert catalog_of(f"m: {ROW}").resolve("unheard-of") is None


def test_dots_and_brackets_in_a_pattern_are_literal() -> None:
    catalog = catalog_of(f'"a.b[1]+*": {ROW}')
    assert catalog.resolve("a.b[1]+x") is not None
    assert catalog.resolve("aXb1+x") is None


@given(
    pattern=st.text("ab*", max_size=8).filter(is_pattern),
    name=st.text("ab", max_size=12),
)
def test_patterns_match_as_their_regular_expression_does(pattern: str, name: str) -> None:
    catalog = catalog_of(f'"{pattern}": {ROW}')
    matches = re.fullmatch(pattern.replace("*", ".*"), name) is not None
    assert (catalog.resolve(name) is not None) is matches


def test_no_name_makes_a_pattern_search_for_long() -> None:
    catalog = catalog_of(f'"{"*a" * 20}*b": {ROW}')
    started = time.perf_counter()
    assert catalog.resolve("a" * 256) is None
    assert time.perf_counter() - started < 0.1


def test_what_may_be_said_of_an_upstream() -> None:
    catalog = catalog_of(
        "{}",
        "upstreams:\n  a: h:1\n  b: {address: 'h:2'}\n"
        "  c: {address: 'h:3', grpc: '[::1]:4', health: /v2/health/ready}\n",
    )
    assert catalog.upstreams == {
        "a": Upstream("h:1"),
        "b": Upstream("h:2"),
        "c": Upstream("h:3", "[::1]:4", "/v2/health/ready"),
    }


def test_a_models_upstream() -> None:
    catalog = catalog_of(
        f"""
m: {{price: {{input: 1}}, context_tokens: 10, upstream: a, aliases: ["x*"]}}
n: {ROW}
""",
        "upstreams: {a: 'h:1'}\n",
    )
    assert [catalog.upstream_of(name) for name in ("m", "xy", "n", "unknown")] == [
        "a",
        "a",
        DEFAULT_UPSTREAM,
        DEFAULT_UPSTREAM,
    ]


# ── What is wrong, and on which line ─────────────────────────────────────────────────────────────

HERE = "  # <here>"  # marks, in the cases below, the line that is to be named

FAULTY = {
    "empty": ("# <here>\n", "it is empty"),
    "a list": ("- a  # <here>\n", "it is not a mapping of names to values"),
    "a word": ("models  # <here>\n", "it is not a mapping of names to values"),
    "open bracket": (PLANS + "models: [\n# <here>", "expected the node content"),
    "a tab": (PLANS + "models:\n\tm: 1  # <here>\n", "cannot start any token"),
    "a control": (PLANS + "# \x01  # <here>\n", "a character that cannot stand in YAML"),
    "two documents": (PLANS + "---  # <here>\nmodels: {}\n", "found another document"),
    "twice at the top": (PLANS + "default_plan: free  # <here>\n", "default_plan stands twice"),
    "twice below": (
        f"{PLANS}models:\n  m: {ROW}\n  n: {ROW}\n  m: {ROW}  # <here>\n",
        "models.m stands twice",
    ),
    "a merge": (PLANS + "models:\n  <<: {}  # <here>\n", "<< cannot be a name here"),
    "a list as a name": (PLANS + "? [a]  # <here>\n: 1\n", "this cannot be a name here"),
    "unknown name": (PLANS + "modles: {}  # <here>\n", "modles: nothing is called so here"),
    "unknown member": (
        f"{PLANS}models:\n  m:\n    price: {{input: 1}}\n    context_tokens: 1\n"
        "    contxt: 1  # <here>\n",
        "models.m.contxt: nothing is called so here",
    ),
    "unknown kind of price": (
        f"{PLANS}models:\n  m:\n    context_tokens: 1\n    price:\n      inptu: 1  # <here>\n",
        "models.m.price.inptu: nothing is called so here",
    ),
    "no plans": ("default_plan: free  # <here>\n", "plans: it is missing"),
    "no default plan": ("plans: {free: {}}  # <here>\n", "default_plan: it is missing"),
    "no price": (
        f"{PLANS}models:\n  m:  # <here>\n    context_tokens: 10\n",
        "models.m.price: it is missing",
    ),
    "no context": (
        f"{PLANS}models:\n  m:  # <here>\n    price: {{input: 1}}\n",
        "models.m.context_tokens: it is missing",
    ),
    "an empty price": (
        f"{PLANS}models:\n  m:\n    context_tokens: 10\n    price: {{}}  # <here>\n",
        "models.m.price: name at least one price; an explicit 0 makes a model free",
    ),
    "a model that is null": (
        f"{PLANS}models:\n  m:  # <here>\n  n: {ROW}\n",
        "models.m: a mapping of names to values is needed",
    ),
    "models that are a list": (
        PLANS + "models: []  # <here>\n",
        "models: a mapping of names to values is needed",
    ),
    "a name with a space": (
        f"{PLANS}models:\n  m: {ROW}\n  a b: {ROW}  # <here>\n",
        "models.a b: a model's name has 1 to 256 characters, no spaces and no controls",
    ),
    "an alias with a space": (
        f"{PLANS}models:\n  m:\n    price: {{input: 1}}\n    context_tokens: 10\n"
        "    aliases:\n      - fine\n      - not fine  # <here>\n",
        "models.m.aliases.1: a model's name has",
    ),
    "a plan that is not there": (
        "plans: {free: {}}\nmodels: {}\ndefault_plan: pro  # <here>\n",
        "default_plan: there is no plan 'pro'",
    ),
    "an upstream that is not there": (
        f"{PLANS}models:\n  m:\n    price: {{input: 1}}\n    context_tokens: 10\n"
        "    upstream: gpu-a  # <here>\n",
        "models.m.upstream: there is no upstream 'gpu-a'",
    ),
    "an alias that is a model": (
        f"{PLANS}models:\n  a: {ROW}\n  m:\n    price: {{input: 1}}\n    context_tokens: 10\n"
        "    aliases:\n      - b\n      - a  # <here>\n",
        "models.m.aliases.1: 'a' already names something else",
    ),
    "an alias that is its own model": (
        f"{PLANS}models:\n  m:\n    price: {{input: 1}}\n    context_tokens: 10\n"
        "    aliases: [m]  # <here>\n",
        "models.m.aliases.0: 'm' already names something else",
    ),
    "an alias that stands twice": (
        f"{PLANS}models:\n  a:\n    price: {{input: 1}}\n    context_tokens: 10\n"
        f"    aliases: [x]\n  m: {ROW[:-1]}, aliases: [x]}}  # <here>\n",
        "models.m.aliases.0: 'x' already names something else",
    ),
    "aliases of a pattern": (
        f'{PLANS}models:\n  "q*":\n    price: {{input: 1}}\n    context_tokens: 10\n'
        "    aliases: [x]  # <here>\n",
        "models.q*.aliases: a pattern has no aliases",
    ),
    "aliases of the default": (
        f"{PLANS}default:\n  price: {{input: 1}}\n  context_tokens: 10\n  aliases: [x]  # <here>\n",
        "default.aliases: the default has none",
    ),
    "an upstream of the default": (
        f"{PLANS}default:\n  price: {{input: 1}}\n  context_tokens: 10\n  upstream: x  # <here>\n",
        "default.upstream: the default has none",
    ),
    "more output than context": (
        f"{PLANS}models:\n  m:\n    price: {{input: 1}}\n    context_tokens: 10\n"
        "    max_output_tokens: 10  # <here>\n",
        "models.m.max_output_tokens: it must be below context_tokens",
    ),
    "more output than context by default": (
        f"{PLANS}default:\n  max_output_tokens: 11  # <here>\n"
        "  price: {input: 1}\n  context_tokens: 10\n",
        "default.max_output_tokens: it must be below context_tokens",
    ),
    "an upstream's name": (
        PLANS + "upstreams:\n  gpu-a: h:1\n  GPU_b: h:2  # <here>\n",
        "upstreams.GPU_b: it cannot name an upstream; a name looks like 'gpu-a'",
    ),
    "an upstream called default": (
        PLANS + "upstreams:\n  default: h:1  # <here>\n",
        "upstreams.default: it cannot name an upstream",
    ),
    "an upstream without a port": (
        PLANS + "upstreams:\n  a: h:1\n  b: h  # <here>\n",
        "upstreams.b: write the address as host:port",
    ),
    "an upstream with a scheme": (
        PLANS + "upstreams:\n  a: http://h:1  # <here>\n",
        "upstreams.a: write the address as host:port",
    ),
    "an upstream's gRPC address": (
        PLANS + "upstreams:\n  a: h:1\n  b: {address: h:1, grpc: h}  # <here>\n",
        "upstreams.b.grpc: write the address as host:port",
    ),
    "an upstream without an address": (
        PLANS + "upstreams:\n  a:  # <here>\n    grpc: h:1\n",
        "upstreams.a.address: it is missing",
    ),
    "an upstream's health that is no path": (
        PLANS + "upstreams:\n  a:\n    address: h:1\n    health: health?x  # <here>\n",
        "upstreams.a.health: write a path such as /health, without a query",
    ),
    "an unknown member of an upstream": (
        PLANS + "upstreams:\n  a:\n    address: h:1\n    tls: true  # <here>\n",
        "upstreams.a.tls: nothing is called so here",
    ),
    "an upstream's port": (
        PLANS + "upstreams:\n  a: h:65536  # <here>\n",
        "upstreams.a: write the address as host:port",
    ),
    "rows of endpoints": (
        PLANS + "endpoints: [x]  # <here>\n",
        "endpoints.0: a mapping of names to values is needed",
    ),
    "a path without a slash": (
        PLANS + "endpoints:\n  - name: x\n    path: v1/x  # <here>\n",
        "endpoints.0.path: a path starts with a slash",
    ),
    **{
        f"a path like {path}": (
            PLANS + f"endpoints:\n  - name: x\n    path: '{path}'  # <here>\n",
            "endpoints.0.path: no path looks so",
        )
        for path in (
            *("/", "//x", "/x/", "/x//y", "/../x", "/x/.", "/x?y", "/x y", "/%78", "/x;y"),
            *("/{m}", "/x{model}", "/{model}x", "/{model}/{model}", "/{model}{version}", "/ü"),
        )
    },
    "a path without its model": (
        PLANS + "endpoints:\n  - name: x\n    path: /x  # <here>\n    model: path\n",
        "endpoints.0.path: it has no {model}",
    ),
    "a model in a path that is not read there": (
        PLANS + "endpoints:\n  - name: x\n    path: '/{model}/x'  # <here>\n",
        "endpoints.0.path: its {model} names a model: write `model: path`",
    ),
    "an unknown member of an endpoint": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    usages: none  # <here>\n",
        "endpoints.0.usages: nothing is called so here",
    ),
    "an endpoint without a path": (
        PLANS + "endpoints:\n  - name: x  # <here>\n",
        "endpoints.0.path: it is missing",
    ),
    "an endpoint's name": (
        PLANS + "endpoints:\n  - name: X  # <here>\n    path: /x\n",
        "endpoints.0.name: ",
    ),
    "an endpoint's method": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    method: PUT  # <here>\n",
        "endpoints.0.method: ",
    ),
    "inference by GET": (
        PLANS + "endpoints:\n  - name: x\n    path: /{model}\n    model: path\n"
        "    method: GET  # <here>\n",
        "endpoints.0.method: a GET is no inference",
    ),
    "a GET with a model in its body": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    lane: listing\n    method: GET\n"
        "    model: body  # <here>\n",
        "endpoints.0.model: a GET has no body to name one",
    ),
    "inference without a model": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    model: none  # <here>\n",
        "endpoints.0.model: an inference call is priced by its model",
    ),
    "the server's model that nobody named": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    model: server  # <here>\n",
        "endpoints.0.model: name the server's model as `native_model`",
    ),
    "a member of a form": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    model: form\n    input: y  # <here>\n",
        "endpoints.0.input: a form has none to be named",
    ),
    "a member too deep": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    output:\n      - a.b.c  # <here>\n",
        "endpoints.0.output.0: name a member of the body",
    ),
    "an input inside an object": (
        PLANS + "endpoints:\n  - name: x\n    path: /x\n    input: a.b  # <here>\n",
        "endpoints.0.input: the input is a member of the body itself",
    ),
    "two endpoints of one name": (
        PLANS + "endpoints:\n  - {name: x, path: /x}\n  - {name: x, path: /y}  # <here>\n",
        "endpoints.1.name: another row has it already",
    ),
    "two endpoints of one path": (
        PLANS + "endpoints:\n  - {name: x, path: '/{model}/x', model: path}\n"
        "  - {name: y, path: '/{version}/x'}  # <here>\n",
        "endpoints.1.path: another row has it already",
    ),
    "a pattern as the server's model": (
        PLANS + "native_model: 'a*'  # <here>\n",
        "native_model: a pattern names no model",
    ),
    "an anchor in itself": ("models: &a  # <here>\n  m: *a\n", "an anchor stands inside itself"),
}


@pytest.mark.parametrize(("text", "sentence"), FAULTY.values(), ids=list(FAULTY))
def test_a_fault_names_its_line(text: str, sentence: str) -> None:
    (fault,) = faults_of(text)
    line = text[: text.index("# <here>")].count("\n") + 1
    assert fault.startswith(f"line {line}: ")
    assert sentence in fault


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("price.input", value)
        for value in ("-0.1", "true", "x", "", ".nan", ".inf", "0.0000000001", "1000001", "[1]")
    ]
    + [
        ("context_tokens", value)
        for value in ("0", "-1", "1.5", "true", "x", "1e400", "1000000001")
    ]
    + [("max_output_tokens", "0"), ("overhead_tokens", "-1"), ("tokens_per_byte", "0")]
    + [
        ("tokens_per_byte", "17"),
        ("continuous_usage", "1.5"),
        ("stored_context", "x"),
        ("endless", "x"),
    ]
    + [("controls", "keep_alive"), ("controls", "[1]"), ("aliases", "x"), ("aliases", "[1]")]
    + [("upstream", "1")],
)
def test_a_value_that_is_none_names_its_line(member: str, value: str) -> None:
    rows = {"price.input": "1", "context_tokens": "10"} | {member: value}
    price = rows.pop("price.input")
    lines = ["models:", "  m:", f"    price: {{input: {price}}}"]
    lines += [f"    {name}: {written}" for name, written in rows.items()]
    (fault,) = faults_of("\n".join(lines) + "\n" + PLANS)
    head = member.partition(".")[0] + ":"
    own = next(number for number, line in enumerate(lines, 1) if head in line)
    assert fault.startswith(f"line {own}: models.m.{member}")


@pytest.mark.parametrize(
    ("member", "value"),
    [("max_keys", "-1"), ("max_rpm", "0"), ("max_budget_usd", "-1"), ("account_budget_usd", "x")],
)
def test_so_does_one_of_a_plan(member: str, value: str) -> None:
    text = f"default_plan: free\nplans:\n  free:\n    {member}: {value}\n"
    (fault,) = faults_of(text)
    assert fault.startswith(f"line 4: plans.free.{member}: ")


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_lines() -> None:
    faults = faults_of("x: 1\nmodels:\n  m: {price: {input: -1}, context_tokens: 0}\nplans: 1\n")
    assert [fault.split(":")[0] for fault in faults] == [
        "line 1",
        "line 1",
        "line 3",
        "line 3",
        "line 4",
    ]
    together = faults_of(
        f"models:\n  m: {ROW[:-1]}, upstream: x, aliases: [m], max_output_tokens: 99}}\n"
        "plans: {}\ndefault_plan: free\n"
    )
    assert [fault.split(":")[0] for fault in together] == ["line 2"] * 3 + ["line 4"]


def test_no_sentence_speaks_of_classes_or_of_python() -> None:
    for text, _ in FAULTY.values():
        for fault in faults_of(text):
            assert not re.search(r"Entry|CatalogFile|instance|dictionary|Value error|None", fault)


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MEMBERS = ["models", "default", "upstreams", "plans", "default_plan", "endpoints"]


@given(data=st.dictionaries(st.sampled_from(MEMBERS), YAML))
def test_whatever_stands_in_it_nothing_but_a_config_error_comes(data: Any) -> None:
    try:
        Catalog.parse(yaml.safe_dump(data), "")
    except ConfigError as fault:
        said = fault.faults
    else:
        said = ()
    assert all(re.match(r"line \d+: \S", sentence) for sentence in said)


@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_nor_for_any_text(text: str) -> None:
    with pytest.raises(ConfigError):
        Catalog.parse(text, "")


# -- plans that accounts are on and the file does not name


def with_plans(*rows: str) -> Catalog:
    return Catalog.parse(
        "plans:\n" + "".join(f"  {row}\n" for row in rows) + "default_plan: free\n", "a test's"
    )


def test_a_lost_plan_is_held_to_the_default_plans_account_budget() -> None:
    catalog = with_plans("free: {account_budget_usd: 5, ceiling: start}", "pro: {max_keys: 9}")
    assert catalog.plan_of("pro") is catalog.plans["pro"]
    assert catalog.plan_of("gone") is catalog.plans["free"]
    assert catalog.lost({"pro": 2, "gone": 3, "": 1}) == {"gone": 3, "": 1}


def test_a_lost_plan_is_held_to_nothing_where_the_default_has_no_account_budget() -> None:
    """It may have had one, and an account never goes on without its ceiling."""
    catalog = with_plans("free: {max_keys: 2, ceiling: start}", "pro: {account_budget_usd: 9}")
    assert catalog.plans["free"].account_budget_nanousd is None
    plan = catalog.plan_of("gone")
    assert (plan.account_budget_nanousd, plan.ceiling) == (0, "hold")
    assert "gone" not in catalog.plans
