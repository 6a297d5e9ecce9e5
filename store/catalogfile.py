"""The shape of the catalog's file, and which line of it each value stands on. Pure.

Numbers are read as decimals from their own digits: no float ever stands between a written price
and the money that is charged.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Path = tuple[str | int, ...]

_HOST_PORT: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):(\d{1,5})"
)
UPSTREAM_NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
MAX_PORT: Final = 65535
DEFAULT_OVERHEAD: Final = 1024  # tokens: templates, tool preambles
_VARIABLE: Final = r"\{(?:model|version|label)\}(?=[/:]|$)"
_CHARACTERS: Final = r"[A-Za-z0-9._~!$&'()*+,=@:-]*"
_PATH: Final = re.compile(rf"(?:/(?=[^/])(?!\.{{1,2}}(?:/|$))(?:{_VARIABLE})?{_CHARACTERS})+")
_MEMBER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?")
_URL_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,255}")
_TAKEN_UPSTREAM: Final = "default"  # the server of those that name none


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004  pydantic collects ValueErrors only
    return value


def _model_name(value: str) -> str:
    if not value or len(value) > 256 or any(ord(c) < 33 or ord(c) == 127 for c in value):  # noqa: PLR2004  the limit of a name
        raise ValueError("a model's name has 1 to 256 characters, no spaces and no controls")
    return value


def _upstream_name(value: str) -> str:
    if not UPSTREAM_NAME.fullmatch(value) or value == _TAKEN_UPSTREAM:
        raise ValueError("it cannot name an upstream; a name looks like 'gpu-a'")
    return value


def _host_port(value: str) -> str:
    match = _HOST_PORT.fullmatch(value)
    if not match or not 0 < int(match[1]) <= MAX_PORT:
        raise ValueError("write the address as host:port")
    return value


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("a path starts with a slash")
    variables = re.findall(r"\{[^{}/]*\}", value)
    if not _PATH.fullmatch(value) or len(set(variables)) < len(variables):
        raise ValueError(
            "no path looks so: segments of letters, digits and ._~!$&'()*+,=@:- between single "
            "slashes, and {model}, {version} or {label}, each once, for a segment or for what "
            "stands in one before a colon"
        )
    return value


def _member(value: str) -> str:
    if not _MEMBER.fullmatch(value):
        raise ValueError("name a member of the body, or one inside an object as 'options.bound'")
    return value


def _own_name(value: str) -> str:
    if "*" in value:
        raise ValueError("a pattern names no model; write the name")
    return value


def url_path(value: str) -> str:
    if not _URL_PATH.fullmatch(value):
        raise ValueError("write a path such as /health, without a query")
    return value


Usd = Annotated[Decimal, BeforeValidator(_not_bool), Field(ge=0, le=1_000_000, decimal_places=9)]
Count = Annotated[int, BeforeValidator(_not_bool), Field(ge=0, le=1_000_000_000)]
Positive = Annotated[int, BeforeValidator(_not_bool), Field(ge=1, le=1_000_000_000)]
UpstreamName = Annotated[str, AfterValidator(_upstream_name)]
Address = Annotated[str, AfterValidator(_host_port)]
EndpointName = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$", max_length=64)]
EndpointPath = Annotated[str, Field(max_length=256), AfterValidator(_path)]
Member = Annotated[str, Field(max_length=128), AfterValidator(_member)]
ModelName = Annotated[str, BeforeValidator(lambda v: _model_name(v) if isinstance(v, str) else v)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceEntry(_Entry):
    """USD per million tokens; `per_request` and `per_second` in USD."""

    input: Usd = Decimal(0)
    cached_input: Usd | None = None
    cache_write: Usd | None = None
    output: Usd = Decimal(0)
    per_request: Usd = Decimal(0)
    per_second: Usd = Decimal(0)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one price; an explicit 0 makes a model free")
        return self


class ModelEntry(_Entry):
    """A model, a pattern of models, or the default."""

    price: PriceEntry
    context_tokens: Positive
    max_output_tokens: Positive | None = None
    tokens_per_byte: Annotated[Decimal, BeforeValidator(_not_bool), Field(gt=0, le=16)] = Decimal(1)
    overhead_tokens: Count = DEFAULT_OVERHEAD
    continuous_usage: bool = False
    controls: tuple[str, ...] = ()
    stored_context: bool = False
    endless: bool = False
    aliases: tuple[ModelName, ...] = ()
    upstream: str | None = None


class UpstreamEntry(_Entry):
    """A model server; where nothing more than its address is said of it, that alone is written."""

    address: Address
    grpc: Address | None = None
    health: Annotated[str, AfterValidator(url_path)] | None = None


class PublicPricesEntry(_Entry):
    """Prices of public model names for what no row above the default names.

    Without `providers` all whose names tell whose they are; `max_output_tokens` counts for the
    names that have room for it.
    """

    providers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    max_output_tokens: Positive | None = None


def _switch(value: object) -> object:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def _bare_address(value: object) -> object:
    return {"address": _host_port(value)} if isinstance(value, str) else value


class PlanEntry(_Entry):
    """Caps of a plan; what is not named is not capped."""

    max_keys: Count | None = None
    max_budget_usd: Usd | None = None
    max_rpm: Positive | None = None
    account_budget_usd: Usd | None = None
    ceiling: Literal["hold", "start"] = "hold"


class EndpointEntry(_Entry):
    """A row beyond the built-in table: a call, where its model stands, what bounds its cost."""

    name: EndpointName
    path: EndpointPath
    method: Literal["GET", "POST"] = "POST"
    model: Literal["body", "path", "form", "server", "none"] = "body"
    model_member: Member = "model"
    input: Member | None = None
    output: tuple[Member, ...] = ()
    repeats: tuple[Member, ...] = ()
    usage: Literal["openai", "anthropic", "gemini", "ollama", "none"] = "openai"
    dialect: Literal["openai", "anthropic"] = "openai"
    lane: Literal["inference", "listing"] = "inference"

    def clashes(self) -> Iterator[tuple[str, str]]:
        """What does not fit together in it: the member, and why."""
        variable = "{model}" in self.path
        if self.model == "path" and not variable:
            yield "path", "it has no {model}, and the model is said to stand in the path"
        if self.model != "path" and variable:
            yield "path", "its {model} names a model: write `model: path`"
        if self.lane == "inference" and self.method == "GET":
            yield "method", "a GET is no inference: write `lane: listing`"
        if self.method == "GET" and self.model in {"body", "form"}:
            yield "model", "a GET has no body to name one: write path, server or none"
        if self.lane == "inference" and self.model == "none":
            yield "model", "an inference call is priced by its model: write where that stands"
        if self.model == "form":
            for member in ("input", "output", "model_member"):
                if member in self.model_fields_set:
                    yield member, "a form has none to be named: its model stands in `model`"
        if self.input is not None and "." in self.input:
            yield "input", "the input is a member of the body itself"


class CatalogFile(_Entry):
    """The whole file."""

    models: dict[ModelName, ModelEntry] = Field(default_factory=dict)
    default: ModelEntry | None = None
    upstreams: dict[UpstreamName, Annotated[UpstreamEntry, BeforeValidator(_bare_address)]] = Field(
        default_factory=dict
    )
    plans: dict[str, PlanEntry]
    default_plan: str
    native_model: Annotated[ModelName, AfterValidator(_own_name)] | None = None
    endpoints: tuple[EndpointEntry, ...] = ()
    public_prices: Annotated[PublicPricesEntry | None, BeforeValidator(_switch)] = None

    def clashes(self) -> Iterator[tuple[Path, str]]:
        """What does not fit together though each part is right: where it stands, and why."""
        if self.default_plan not in self.plans:
            yield ("default_plan",), f"there is no plan {self.default_plan!r}"
        if self.default is not None:
            yield from _output_clash(("default",), self.default)
            for member in ("aliases", "upstream"):
                if getattr(self.default, member):
                    yield ("default", member), "the default has none"
        names = set(self.models)
        for name, row in self.models.items():
            path = ("models", name)
            yield from _output_clash(path, row)
            if row.upstream is not None and row.upstream not in self.upstreams:
                yield (*path, "upstream"), f"there is no upstream {row.upstream!r}"
            if row.aliases and "*" in name:
                yield (*path, "aliases"), "a pattern has no aliases"
            for number, alias in enumerate(row.aliases):
                if alias in names:
                    yield (*path, "aliases", number), f"{alias!r} already names something else"
                names.add(alias)
        yield from self._endpoint_clashes()

    def _endpoint_clashes(self) -> Iterator[tuple[Path, str]]:
        taken = set[str]()
        for number, row in enumerate(self.endpoints):
            path: Path = ("endpoints", number)
            for member, why in row.clashes():
                yield (*path, member), why
            if row.model == "server" and self.native_model is None:
                yield (*path, "model"), "name the server's model as `native_model`"
            call = f"{row.method} {re.sub(r'{[a-z]+}', '{}', row.path)}"
            for member, value in (("name", row.name), ("path", call)):
                if value in taken:
                    yield (*path, member), "another row has it already"
                taken.add(value)


def _output_clash(path: Path, row: ModelEntry) -> Iterator[tuple[Path, str]]:
    if row.max_output_tokens is not None and row.max_output_tokens >= row.context_tokens:
        yield (*path, "max_output_tokens"), "it must be below context_tokens"


_SAID: Final = {
    "missing": "it is missing",
    "extra_forbidden": "nothing is called so here",
    "dict_type": "a mapping of names to values is needed",
    "model_type": "a mapping of names to values is needed",
}


@dataclass(slots=True)
class Lines:
    """Path of a value → line it stands on, 1 the first."""

    at: dict[Path, int] = field(default_factory=dict)

    def nearest(self, path: Path) -> int:
        """The line of a path, or of the closest thing around it that is written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.at:
                return self.at[path[:length]]
        return 1

    def fault(self, path: Path, message: str, kind: str = "") -> tuple[int, str]:
        """The line and one sentence for it; `kind` is pydantic's, where its words are not ours."""
        where = ".".join(str(part) for part in path if part != "[key]")
        said = _SAID.get(kind, message.removeprefix("Value error, "))
        return self.nearest(path), f"{where}: {said}"


def read_with_lines(text: str) -> tuple[Any, Lines, list[tuple[int, str]]]:
    """YAML → (data, lines, faults as (line, sentence)). Data is None where there are faults."""
    lines, faults = Lines(), list[tuple[int, str]]()
    data = None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            faults.append((1, "it is empty"))
        elif isinstance(node, yaml.MappingNode):
            data = _build(node, (), lines, faults)
        else:
            faults.append((node.start_mark.line + 1, "it is not a mapping of names to values"))
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        faults.append((mark.line + 1 if mark else 1, fault.problem or "not YAML"))
    except yaml.reader.ReaderError as fault:
        line = text.count("\n", 0, fault.position) + 1
        faults.append((line, "a character that cannot stand in YAML"))
    except RecursionError:
        faults.append((1, "it is nested too deeply, or an anchor stands inside itself"))
    return (None if faults else data), lines, faults


def _build(node: yaml.Node, path: Path, lines: Lines, faults: list[tuple[int, str]]) -> Any:
    line = node.start_mark.line + 1
    lines.at.setdefault(path, line)
    if isinstance(node, yaml.MappingNode):
        built: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            key_line = key_node.start_mark.line + 1
            if not key or key == "<<":
                faults.append((key_line, f"{key or 'this'} cannot be a name here"))
                continue
            if key in built:
                faults.append((key_line, f"{'.'.join((*map(str, path), key))} stands twice"))
                continue
            lines.at[*path, key] = key_line
            built[key] = _build(value_node, (*path, key), lines, faults)
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, i), lines, faults) for i, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    kind, text = node.tag.rpartition(":")[2], str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in {"yes", "true", "on"}
    if kind in {"int", "float"}:
        try:
            number = Decimal(text.replace("_", ""))
        except InvalidOperation:
            return text
        return int(number) if kind == "int" else number
    return text
