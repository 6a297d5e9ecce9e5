"""Which path is which endpoint. Default deny: a path that no row names is none of them.

Paths are compared byte for byte after Envoy's normalisation: another case, a trailing slash
or a path parameter is another path. A segment that names a model has characters that nobody
decodes: with a percent sign or a semicolon in it, no row matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from authz.body import MAX_MODEL_CHARS
from authz.model import Dialect, Endpoint, Lane, Match, Metering, Place
from authz.shape import TALK, Content, Shape
from authz.table import MODEL, MODEL_PREFIX, NO_MODELS, ROWS
from store.catalog import Catalog
from store.catalogfile import EndpointEntry
from store.errors import ConfigError

_ANTHROPIC_PREFIX: Final = "/v1/messages"
_SEGMENT: Final = r"[A-Za-z0-9._~!$&'()*+,=@:-]+"
_VARIABLE: Final = re.compile(r"\{([a-z]+)\}")
_DOTS: Final = frozenset({".", ".."})
GRPC_TYPE: Final = "application/grpc"
_GRPC_TYPES: Final = frozenset({GRPC_TYPE, f"{GRPC_TYPE}+proto"})
_MODEL_CALL: Final = f"GET {MODEL_PREFIX}{{}}"
_NO_JSON: Final = frozenset({Place.FORM, Place.NONE})


class Table:
    """The rows that there are here: the built-in ones and the catalog's.

    `native_model` is the one model of a server whose own paths name none; without it there are
    no such paths.
    """

    def __init__(self, more: Iterable[Endpoint] = (), native_model: str | None = None) -> None:
        rows = (*ROWS, *more)
        self.rows = tuple(r for r in rows if r.place is not Place.SERVER or native_model)
        self._exact = {
            (row.method, row.path): Match(row, native_model if row.place is Place.SERVER else None)
            for row in self.rows
            if not is_template(row.path)
        }
        templates = [row for row in self.rows if is_template(row.path)]
        self._templates = {
            method: _Templates([row for row in templates if row.method == method])
            for method in {row.method for row in templates}
        }

    def find(self, method: str, path: str) -> Match | None:
        """The endpoint of a path without its query, or None: then the request is refused."""
        match = self._exact.get((method, path))
        if match is not None:
            return match
        templates = self._templates.get(method)
        match = None if templates is None else templates.find(path)
        if match is None and method == "GET" and len(path) > len(MODEL_PREFIX):
            return _MODEL if path.startswith(MODEL_PREFIX) else None
        return match


_MODEL: Final = Match(MODEL)


class _Templates:
    """The paths of one method that have variable segments, as one regular expression."""

    def __init__(self, rows: list[Endpoint]) -> None:
        self._rows = rows
        self._regex = re.compile(
            "|".join(
                f"(?P<row{number}>{path_regex(row.path, f'(?P<model{number}>{_SEGMENT})')})"
                for number, row in enumerate(rows)
            )
        )

    def find(self, path: str) -> Match | None:
        found = None if path in NO_MODELS else self._regex.fullmatch(path)
        if found is None or found.lastgroup is None:
            return None
        number = int(found.lastgroup.removeprefix("row"))
        row = self._rows[number]
        model = found[f"model{number}"] if "{model}" in row.path else None
        if model is not None and (model in _DOTS or len(model) > MAX_MODEL_CHARS):
            return None
        return Match(row, model)


def is_template(path: str) -> bool:
    """Whether a row's path stands for many."""
    return "{" in path


def path_regex(path: str, model: str = _SEGMENT) -> str:
    """A row's path as a regular expression, in the subset that RE2 reads too."""
    parts = _VARIABLE.split(path)
    for at, part in enumerate(parts):
        if at % 2:
            parts[at] = model if part == "model" else _SEGMENT
        else:
            parts[at] = re.escape(part)
    return "".join(parts)


BUILT_IN: Final = Table()


def is_grpc(content_type: str) -> bool:
    """Whether the client waits for a gRPC answer: just where Envoy gives it one."""
    return content_type == GRPC_TYPE or content_type.startswith(f"{GRPC_TYPE}+")


def speaks(endpoint: Endpoint, content_type: str) -> bool:
    """Whether a content type is the endpoint's: gRPC where and only where the endpoint is."""
    if endpoint.dialect is Dialect.GRPC:
        return content_type in _GRPC_TYPES
    return not is_grpc(content_type)


def dialect_of(path: str, content_type: str = "") -> Dialect:
    """Whose error shape a request speaks, whether or not its path is an endpoint."""
    if is_grpc(content_type):
        return Dialect.GRPC
    anthropic = path == _ANTHROPIC_PREFIX or path.startswith(_ANTHROPIC_PREFIX + "/")
    return Dialect.ANTHROPIC if anthropic else Dialect.OPENAI


def table_of(catalog: Catalog) -> Table:
    """The table of this installation. Raises ConfigError naming the line of every bad row."""
    taken = {value for row in ROWS for value in (row.name, _call(row))} | {_MODEL_CALL}
    rows, faults = list[Endpoint](), list[str]()
    for number, row in enumerate(catalog.endpoints):
        endpoint = _endpoint(row.entry)
        for member, value in (("name", endpoint.name), ("path", _call(endpoint))):
            if value in taken:
                where = f"line {row.lines[member]}: endpoints.{number}.{member}"
                faults.append(f"{where}: a built-in endpoint has it already")
        rows.append(endpoint)
    if faults:
        raise ConfigError(f"The catalog {catalog.source} cannot be used:", tuple(faults))
    return Table(rows, catalog.native_model)


def _call(row: Endpoint) -> str:
    """The method and the path, whatever its variables are called."""
    return f"{row.method} {_VARIABLE.sub('{}', row.path)}"


def _endpoint(entry: EndpointEntry) -> Endpoint:
    place = Place(entry.model)
    return Endpoint(
        entry.name,
        entry.method,
        entry.path,
        Lane(entry.lane),
        Dialect(entry.dialect),
        place,
        Metering(entry.usage),
        None if entry.method == "GET" or place in _NO_JSON else _shape(entry),
    )


def _shape(entry: EndpointEntry) -> Shape:
    """Without a member for its input the context is held; a listing holds nothing."""
    nests = {name.partition(".")[0] for name in (*entry.output, *entry.repeats) if "." in name}
    content = entry.input or "input"
    if entry.lane == "listing":
        return Shape(models=(entry.model_member,))
    kind = Content.TALK if content in TALK else Content.PROMPTS
    return Shape(
        content,
        kind=Content.OPAQUE if entry.input is None else kind,
        bounds=entry.output,
        repeats=entry.repeats,
        endless=entry.usage == "ollama",
        tagged=entry.usage == "ollama",
        models=(entry.model_member,),
        nests=tuple(sorted(nests)),
        usage_on_request=entry.usage == "openai" and content == "messages",
    )
