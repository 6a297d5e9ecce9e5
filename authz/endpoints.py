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
from authz.model import Dialect, Endpoint, Match, Place
from authz.table import MODEL, MODEL_PREFIX, ROWS

_ANTHROPIC_PREFIX: Final = "/v1/messages"
_SEGMENT: Final = r"[A-Za-z0-9._~!$&'()*+,=@:-]+"
_VARIABLE: Final = re.compile(r"\{([a-z]+)\}")
_DOTS: Final = frozenset({".", ".."})


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
        found = self._regex.fullmatch(path)
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


def dialect_of(path: str) -> Dialect:
    """Whose error shape a path speaks, whether or not it is an endpoint."""
    anthropic = path == _ANTHROPIC_PREFIX or path.startswith(_ANTHROPIC_PREFIX + "/")
    return Dialect.ANTHROPIC if anthropic else Dialect.OPENAI
