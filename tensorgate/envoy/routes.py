"""What a request is matched by: the parts of Envoy's routes that are computed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz.credential import CREDENTIAL_HEADERS
from authz.endpoints import path_regex
from authz.model import Endpoint, Place
from store.keyformat import KeyForm
from tensorgate.envoy.capacity import KIB, MIB, OTHER_BODY, SMALL_BODY
from tensorgate.envoy.headers import EXPOSED
from tensorgate.envoy.replies import AUTHZ_METADATA, GRPC_TYPE

Tree = dict[str, Any]

GRPC_PREFIX: Final = "/inference.GRPCInferenceService/"
UPSTREAM_HEADER: Final = "x-tensorgate-upstream"

SMALL_TOO_LARGE: Final = (
    f"The body is larger than the {SMALL_BODY // KIB} KiB that a request may have unless it is a "
    "POST with an API key of this gate. Check that the key was copied whole."
)

NO_CHECK: Final[Tree] = {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    "disabled": True,
}


@dataclass(frozen=True, slots=True)
class BodyClass:
    """Paths on which a POST with a key of our form may be longer than anybody's."""

    name: str
    why: str
    path: Tree  # the path part of an Envoy RouteMatch
    limit: int  # bytes

    def match(self, header: str, key: Tree) -> Tree:
        """An Envoy RouteMatch: a POST on these paths with a key of our form in `header`."""
        post = {"name": ":method", "string_match": {"exact": "POST"}}
        return {**self.path, "headers": [post, {"name": header, "string_match": key}]}

    @property
    def too_large(self) -> str:
        """What a 413 says."""
        return (
            f"The body is larger than the {self.limit // MIB} MiB that this path takes. "
            "Send less in one request."
        )


def body_classes(prompt_limit: int, rows: Sequence[Endpoint]) -> tuple[BodyClass, ...]:
    """The classes, in the order in which their routes are tried."""
    paths = sorted({row.path for row in rows if row.method == "POST"})
    prompts = {"safe_regex": {"regex": "|".join(map(path_regex, paths))}}
    return (
        BodyClass(
            "prompt", "where prompts go (agents send megabytes, images more)", prompts, prompt_limit
        ),
        BodyClass("other", "anywhere else", {"prefix": "/"}, OTHER_BODY),
    )


def grpc_unread(rows: Sequence[Endpoint]) -> Tree:
    """An Envoy RouteMatch: a gRPC call of which the service reads no message."""
    known = "|".join(path_regex(row.path) for row in rows if row.place is Place.MESSAGE)
    path = {"safe_regex": {"regex": rf"(?:{known})(?:\?.*)?"}}
    return {
        "prefix": "/",
        "headers": [
            {"name": "content-type", "string_match": {"safe_regex": {"regex": GRPC_TYPE}}},
            {"name": ":path", "string_match": path, "invert_match": True},
        ],
    }


def credentials(form: KeyForm) -> Iterator[tuple[str, Tree]]:
    """(header, string matcher): what each looks like when it holds a key of our form."""
    key = form.pattern() if form.foreign is None else f"(?:{form.pattern()}|(?:{form.foreign}))"
    for name in CREDENTIAL_HEADERS:
        scheme = "(?i:bearer) +" if name == "authorization" else ""
        yield name, {"safe_regex": {"regex": scheme + key}}


def allowed() -> Tree:
    """A metadata matcher: the check has let this request pass."""
    return {
        "filter": AUTHZ_METADATA,
        "path": [{"key": "outcome"}],
        "value": {"string_match": {"exact": "allowed"}},
    }


def key_in_url(form: KeyForm) -> Tree:
    """A string matcher for `:path`: the query has a `key`, or one of our form by any name."""
    return {"safe_regex": {"regex": rf"[^?]*\?(?:(?:.*[&;])?key=[^&;].*|.*{form.pattern()}.*)"}}


def no_credential() -> list[Tree]:
    """Header matchers that hold where the service would say `missing_api_key`."""
    return [
        {
            "name": name,
            "string_match": {"safe_regex": {"regex": regex}},
            "treat_missing_header_as_empty": True,
            "invert_match": True,
        }
        for name in CREDENTIAL_HEADERS
        for regex in ["(?i:bearer) .*[^ ].*" if name == "authorization" else ".+"]
    ]


def answered(
    name: str, status: int, match: Tree, headers: list[Tree], allowed: tuple[str, ...]
) -> list[Tree]:
    """Routes that Envoy answers itself, before any check and without reading a body.

    The cors filter passes such routes by, so they say themselves which page may read the answer:
    with few origins allowed, a twin in front does it for those.
    """
    origin = origins(allowed)
    plain: Tree = {
        "name": name,
        "match": {**match, "headers": headers},
        "direct_response": {"status": status},
        "typed_per_filter_config": {"envoy.filters.http.ext_authz": NO_CHECK},
    }
    if origin is None:
        return [plain]
    readable = {
        **plain,
        "match": {**match, "headers": [*headers, {"name": "origin", "string_match": origin}]},
        "response_headers_to_add": [
            {"header": {"key": "access-control-allow-origin", "value": "%REQ(ORIGIN)%"}},
            {"header": {"key": "access-control-expose-headers", "value": ", ".join(EXPOSED)}},
        ],
    }
    return [readable, plain]


def alive(allowed: tuple[str, ...]) -> list[Tree]:
    """`GET|HEAD /` and `/healthz`: 200, empty, without a key."""
    method = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    path = {"safe_regex": {"regex": "/(?:healthz)?"}}
    return answered("alive", 200, path, [method], allowed)


def refused(allowed: tuple[str, ...]) -> list[Tree]:
    """No credential in any header: 401, before the body is read."""
    return answered("no-credential", 401, {"prefix": "/"}, no_credential(), allowed)


def unclear() -> list[Tree]:
    """Two Host headers, which Envoy joins by a comma and others read one of: 400."""
    host = {"name": ":authority", "string_match": {"contains": ","}}
    return answered("two-hosts", 400, {"prefix": "/"}, [host], ())


def origins(allowed: tuple[str, ...]) -> Tree | None:
    """A string matcher for the Origins that may call; None where no browser may."""
    if not allowed:
        return None
    return {"safe_regex": {"regex": ".+" if allowed == ("*",) else "|".join(map(literal, allowed))}}


def upstream(name: str) -> Tree:
    """A header matcher: the service wants this one of several model servers."""
    return {"name": UPSTREAM_HEADER, "string_match": {"exact": name}}


def no_upstream() -> Tree:
    """A header matcher: the service names no model server, so that the default one is meant."""
    return {"name": UPSTREAM_HEADER, "present_match": True, "invert_match": True}


def literal(text: str) -> str:
    """A regular expression for one text, as readable as can be."""
    return re.sub(r"([.\[\]])", r"\\\1", text)
