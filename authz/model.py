"""What a request asks and what is decided of it. Values only: no wire, no store, no clock.

`Reason` is the closed vocabulary: metric label, log field, error code and header alike. What is
made anew for each request is a struct: a frozen dataclass takes five to ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from authz.shape import Shape
from store.counters.model import Limit


class Reason(StrEnum):
    """Why a request is refused. Append only: clients match on these words."""

    MISSING_API_KEY = "missing_api_key"
    INVALID_API_KEY = "invalid_api_key"
    API_KEY_EXPIRED = "api_key_expired"
    API_KEY_REVOKED = "api_key_revoked"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    KEY_IN_URL = "key_in_url"
    MALFORMED_BODY = "malformed_body"
    AMBIGUOUS_BODY = "ambiguous_body"
    MODEL_REQUIRED = "model_required"
    INVALID_PARAMETER = "invalid_parameter"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    ENDPOINT_NOT_ALLOWED = "endpoint_not_allowed"
    MODEL_NOT_PRICED = "model_not_priced"
    PARAMETER_NOT_ALLOWED = "parameter_not_allowed"
    UNBOUNDED_NOT_ALLOWED = "unbounded_not_allowed"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    BUDGET_HELD = "budget_held"
    BUDGET_EXCEEDED = "budget_exceeded"
    AUTHORIZATION_UNAVAILABLE = "authorization_unavailable"
    NOT_FOUND = "not_found"


class Dialect(StrEnum):
    """Whose error shape and rate headers a path speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GRPC = "grpc"  # by the content type, as Envoy judges it, whatever the path


class Lane(StrEnum):
    """Which minute a call counts in, and who answers it."""

    INFERENCE = "inference"  # passed on; its own minute, and money
    LISTING = "listing"  # passed on or answered by us; holds no money, a wider minute
    OURS = "ours"  # as LISTING, answered by us


class Edit(msgspec.Struct, frozen=True):
    """A change to the body before the model server gets it: at a byte, in place of so many."""

    offset: int
    removed: int
    text: str


class Slot(msgspec.Struct, frozen=True):
    """Where a bound of the output can be put: an edit but for the number."""

    offset: int
    removed: int
    before: str
    after: str

    def edit(self, tokens: int) -> Edit:
        """The edit that sets the bound."""
        return Edit(self.offset, self.removed, f"{self.before}{tokens}{self.after}")


class Place(StrEnum):
    """Where the model's name stands."""

    BODY = "body"  # a member of a JSON body
    PATH = "path"  # {model} in the path
    FORM = "form"  # a field of a multipart form
    MESSAGE = "message"  # the model_name of a gRPC message
    SERVER = "server"  # nowhere: the server has one, and the catalog names it
    NONE = "none"  # the call is about no model


class Metering(StrEnum):
    """What an answer says of its usage, in whose words. Append only: Envoy's filter reads it."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    OLLAMA = "ollama"
    NONE = "none"  # nothing: per request, per second, or the whole hold


class Ask(msgspec.Struct, frozen=True):
    """What one request asks for.

    `output` is the client's own bound for one answer, in tokens, None where it set none;
    `slot` is then where one can be put. `also`, 0 if there is none, is what the client set by a
    name that only some servers know: these may heed it whatever stands in the slot. `bound_edit`
    makes `output` a bound that every server heeds, where the client's own is not. `usage_edit`
    makes the server report usage, and is there only where the client did not ask for it.
    `stored`, `unbounded` and `bound_name` (of the client's largest bound) name a member.
    `again_bytes` is text that the server reads once more for each prompt but the first, with a
    template around it. `growth` is how many bytes more than the body's the text may have for a
    tokenizer. `context` is what the client sets the context to by the member
    `context_name`, 0 where it does not. `endless`: only a bound ends the answer, no context does.
    `hides_output`: some of what is generated is not to be streamed, or not at once.
    """

    output: int | None
    prompts: int = 1
    repeats: int = 1
    text_only: bool = True
    slot: Slot | None = None
    usage_edit: Edit | None = None
    stored: str | None = None
    unbounded: str | None = None
    bound_name: str | None = None
    also: int = 0
    bound_edit: Edit | None = None
    again_bytes: int | None = None
    growth: int = 0
    context: int = 0
    context_name: str | None = None
    endless: bool = False
    hides_output: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the table: which call this is, how it is read and how its answer is metered.

    In a path, `{model}`, `{version}` and `{label}` stand for one segment each, or for what stands
    in one before a fixed end. `shape` says how a JSON body is read; without one none is.
    """

    name: str
    method: str
    path: str
    lane: Lane
    dialect: Dialect = Dialect.OPENAI
    place: Place = Place.BODY
    usage: Metering = Metering.OPENAI
    shape: Shape | None = None

    @property
    def reads_model(self) -> bool:
        return self.place is not Place.NONE


@dataclass(frozen=True, slots=True)
class Match:
    """The endpoint of a path, and the model where the path or the catalog names it."""

    endpoint: Endpoint
    model: str | None = None


class Fault(msgspec.Struct, frozen=True):
    """Something wrong with a request, carried along until its turn comes.

    `param` names the member that is wrong; `detail` is public text without any of the
    client's own bytes; `offset` is the byte of the body.
    """

    reason: Reason
    detail: str = ""
    param: str | None = None
    offset: int | None = None


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, read once and in one way. The plaintext key is not in it.

    `digests` has one digest per active pepper, newest first, or what is wrong with the
    credential. `path` has no query, and is empty where a key stands in the URL. `encoded` says
    that there is a Content-Encoding. `model` is None where the endpoint reads none, or where
    the body cannot be read; it is `name:adapter` where the body names an adapter too, and `base`
    is then the name. `controls` are the body's members that steer the server. `retyped`: the body
    is read as JSON though its type is a form's, so the server is told that it is JSON.
    """

    id: str
    method: str
    path: str
    dialect: Dialect
    digests: tuple[bytes, ...] | Fault
    endpoint: Endpoint | None
    encoded: bool = False
    body: Fault | None = None
    body_bytes: int = 0
    model: str | None = None
    stream: bool = False
    ask: Ask | None = None
    base: str | None = None
    controls: tuple[str, ...] = ()
    retyped: bool = False

    def reading(
        self,
        model: str | None,
        ask: Ask | None,
        fault: Fault | None,
        *,
        stream: bool,
        base: str | None = None,
        controls: tuple[str, ...] = (),
    ) -> Request:
        """This request with what its body says. Spelled out: `replace` takes twice as long."""
        return Request(
            self.id,
            self.method,
            self.path,
            self.dialect,
            self.digests,
            self.endpoint,
            self.encoded,
            fault,
            self.body_bytes,
            model,
            stream,
            ask,
            base,
            controls,
            self.retyped,
        )

    def unreadable(self, fault: Fault) -> Request:
        """This request with a body that cannot be read."""
        return self.reading(None, None, fault, stream=False)


class Allow(msgspec.Struct, frozen=True):
    """The request may pass once every limit has room, in the order in which they answer."""

    limits: tuple[Limit, ...]


class Deny(msgspec.Struct, frozen=True):
    """The request is refused; `fault` says what of it."""

    fault: Fault

    @property
    def reason(self) -> Reason:
        return self.fault.reason


Decision = Allow | Deny
