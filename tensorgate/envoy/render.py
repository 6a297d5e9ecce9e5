"""Envoy's configuration from a template. Pure but for the template and the Lua that it reads.

Values reach the template as data and are written by `yamltext`: nothing that was given can become
structure.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from authz.listings import LISTING_PATHS
from authz.sockets import LOG, Place, Role
from tensorgate.envoy import capacity, headers, replies, routes, scripts
from tensorgate.envoy.capacity import Capacity
from tensorgate.envoy.options import Checked, RenderOptions, check
from tensorgate.envoy.yamltext import block, flow

_HERE: Final = Path(__file__).parent


def render(options: RenderOptions) -> str:
    """The configuration as YAML text, always the same for the same options.

    Raises ConfigError that lists every option that cannot be used, or says what memory is missing.
    """
    checked = check(options)
    sizes = capacity.plan(
        heap_mib=options.heap_mib,
        body_limit_mib=options.body_limit_mib,
        connections=options.max_connections,
        streams=options.max_streams,
        concurrency=options.concurrency,
    )
    return _template().render(_data(checked, sizes))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=False,  # noqa: S701  YAML, not HTML: every value goes through a filter of ours
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"flow": flow, "block": block, "quoted": _quoted, "duration": _duration}
    return environment.get_template("envoy.yaml.j2")


def _data(checked: Checked, sizes: Capacity) -> dict[str, Any]:
    options = checked.options
    places = Place.all_of(options.workers)
    return {
        "o": options,
        "checked": checked,
        "workers": [place for place in places if place.role is not Role.METER],
        "meter": places[0],
        "log": LOG,
        "sizes": sizes,
        "capacity": capacity,
        "headers": headers,
        "streams": options.max_connections * options.max_streams,
        "lua": {"body_room": scripts.body_room(), "inference": scripts.inference()},
        "body_classes": routes.body_classes(sizes.prompt_body, options.endpoints),
        "small_too_large": routes.SMALL_TOO_LARGE,
        "no_check": routes.NO_CHECK,
        "credentials": tuple(routes.credentials(options.key_form)),
        "allowed": routes.allowed(),
        "grpc_prefix": routes.GRPC_PREFIX,
        "grpc_unread": routes.grpc_unread(options.endpoints),
        "listing_paths": LISTING_PATHS,
        "key_in_url": routes.key_in_url(options.key_form),
        "no_credential": routes.no_credential(),
        "unclear": routes.unclear(),
        "alive": routes.alive(options.cors_origins),
        "refused": routes.refused(options.cors_origins),
        "origins": routes.origins(options.cors_origins),
        "upstream_header": routes.upstream,
        "no_upstream": routes.no_upstream(),
        "local_replies": replies.mappers(
            key_example=f"{options.key_form.prefixes[0]}…",
            request_seconds=options.request_seconds,
        ),
        "reached_the_check": replies.reached_the_check(),
    }


def _quoted(value: object) -> str:
    """A path or another text, always in quotes: it is the reader's own."""
    return json.dumps(str(value), ensure_ascii=False)  # `check` let only printable ones through


def _duration(seconds: float) -> str:
    """As protobuf writes them: `2s`, `0.5s`."""
    return f"{seconds:g}s"
