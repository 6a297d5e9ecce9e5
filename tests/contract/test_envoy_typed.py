"""envoy.yaml is what Envoy's API says, as far as envoy-data-plane knows that API.

`envoy --mode validate` reads all of it, but it is Envoy itself: this is the second opinion.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from contract.typed_bootstrap import read_bootstrap

from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render

ENVOY_YAML: Final = Path(__file__).resolve().parents[2] / "envoy.yaml"

# Types of envoy.yaml that envoy-data-plane lacks: nobody but Envoy has an opinion on these.
UNKNOWN: Final[frozenset[str]] = frozenset()

ROUTER: Final = {
    "name": "router",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "suppress_envoy_headers": True,
    },
}
MANAGER: Final = {
    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
    ".HttpConnectionManager",
    "stat_prefix": "gate",
    "codec_type": "AUTO",
    "stream_idle_timeout": "0.2s",
    "use_remote_address": True,
    "http_filters": [ROUTER],
}


def with_manager(**changes: Any) -> dict[str, Any]:
    manager = copy.deepcopy(MANAGER) | changes
    filters = [{"name": "http", "typed_config": manager}]
    return {"static_resources": {"listeners": [{"filter_chains": [{"filters": filters}]}]}}


def with_router(**changes: Any) -> dict[str, Any]:
    typed_config = {"@type": ROUTER["typed_config"]["@type"]} | changes  # type: ignore[index] # a dict
    return with_manager(http_filters=[{"name": "router", "typed_config": typed_config}])


def test_envoy_yaml_is_a_typed_bootstrap() -> None:
    typed, unknown = read_bootstrap(yaml.safe_load(ENVOY_YAML.read_text()))
    assert typed.static_resources is not None
    assert typed.static_resources.listeners
    assert unknown == UNKNOWN


def test_so_it_is_with_several_workers() -> None:
    typed, unknown = read_bootstrap(yaml.safe_load(render(RenderOptions(workers=2))))
    assert typed.static_resources is not None
    (authz,) = (each for each in typed.static_resources.clusters if each.name == "authz")
    assert authz.outlier_detection is not None
    assert unknown == UNKNOWN


def test_what_is_right_is_read() -> None:
    typed, unknown = read_bootstrap(with_manager())
    assert typed.static_resources is not None
    (chain,) = typed.static_resources.listeners[0].filter_chains
    packed = chain.filters[0].typed_config
    assert packed is not None
    manager: Any = packed.unpack()
    assert manager.stat_prefix == "gate"
    assert manager.http_filters[0].typed_config.unpack().suppress_envoy_headers
    assert not unknown


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"static_resource": {}}, id="at the top"),
        pytest.param(with_manager(use_remote_adress=True), id="in a typed config"),
        pytest.param(with_router(supress_envoy_headers=True), id="in one inside another"),
        pytest.param(with_manager(request_timeout={"secs": 1}), id="of a duration"),
    ],
)
def test_a_field_that_does_not_exist_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="Unknown field"):
        read_bootstrap(config)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(with_manager(codec_type="SPDY"), id="no value of the enum"),
        pytest.param(with_manager(stream_idle_timeout="15 minutes"), id="no duration"),
        pytest.param(with_manager(max_request_headers_kb="many"), id="no number"),
        pytest.param(with_manager(stat_prefix=["gate"]), id="a list for a text"),
        pytest.param(with_manager(use_remote_address="sometimes"), id="no boolean"),
        pytest.param(with_manager(rds={}, route_config={}), id="two of a oneof"),
        pytest.param(with_router(start_child_span=7), id="in one inside another"),
    ],
)
def test_a_value_that_its_field_cannot_hold_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        read_bootstrap(config)


def test_types_that_the_package_lacks_are_named() -> None:
    lacking = "envoy.extensions.filters.http.from_tomorrow.v3.Filter"
    inner = {"name": "new", "typed_config": {"@type": f"type.googleapis.com/{lacking}", "a": 1}}
    _, unknown = read_bootstrap(with_manager(http_filters=[inner, ROUTER]))
    assert unknown == {lacking}
