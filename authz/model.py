"""What a request asks and what is decided of it. Values only: no wire, no store, no clock.

`Reason` is the closed vocabulary: metric label, log field, error code and header alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    AUTHORIZATION_UNAVAILABLE = "authorization_unavailable"
    NOT_FOUND = "not_found"


class Dialect(StrEnum):
    """Whose error shape and rate headers a path speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Lane(StrEnum):
    """Which minute a call counts in, and who answers it."""

    INFERENCE = "inference"  # passed on; its own minute, and money
    LISTING = "listing"  # passed on or answered by us; holds no money, a wider minute
    OURS = "ours"  # as LISTING, answered by us


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the table: which call this is and how it is read."""

    name: str
    method: str
    path: str
    lane: Lane
    dialect: Dialect = Dialect.OPENAI
    reads_model: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a request, carried along until its turn comes.

    `param` names the member that is wrong; `detail` is public text without any of the
    client's own bytes; `offset` is the byte of the body.
    """

    reason: Reason
    detail: str = ""
    param: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, read once and in one way. The plaintext key is not in it.

    `digests` has one digest per active pepper, newest first, or what is wrong with the
    credential. `path` has no query, and is empty where a key stands in the URL. `encoded` says
    that there is a Content-Encoding. `model` is None where the endpoint reads none, or where
    the body cannot be read.
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


@dataclass(frozen=True, slots=True)
class Allow:
    """The request may pass once every limit has room, in the order in which they answer."""

    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    """The request is refused; `fault` says what of it."""

    fault: Fault

    @property
    def reason(self) -> Reason:
        return self.fault.reason


Decision = Allow | Deny
