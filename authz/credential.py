"""From headers and query to digests. The plaintext key ends here.

Pure. A value of our form comes before a value of an imported key's form; two distinct values of
one rank are ambiguous, as which of them a later reader would take is anybody's guess. For the
same reason a header that holds a comma is refused: Envoy joins repeated headers with one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final
from urllib.parse import unquote_plus

from authz.model import Fault, Reason
from store.keyformat import Digester, KeyForm, checksum_holds

AUTHORIZATION: Final = "authorization"
BARE_HEADERS: Final = ("x-api-key", "api-key", "x-goog-api-key")
CREDENTIAL_HEADERS: Final = (AUTHORIZATION, *BARE_HEADERS)

# A name that is `key` once it is decoded and in lower case, which the Kelvin sign's is `k`; with
# a value. One pattern, as thousands of parameters fit into a path and nobody is known yet.
_KEY_PARAMETER: Final = re.compile(
    "(?:^|[&;])(?:[kK\N{KELVIN SIGN}]|%[46][bB]|%[eE]2%84%[aA][aA])"
    "(?:[eE]|%[46]5)(?:[yY]|%[57]9)=[^&;]"
)


def read_credential(
    headers: Mapping[str, str], target: str, form: KeyForm, digester: Digester
) -> tuple[bytes, ...] | Fault:
    """The digests of the one key that the request carries, newest pepper first, or a fault.

    `headers` has lower-case names; `target` is path and query, undecoded. A key of our form
    with a wrong checksum is refused here, so that no store is asked about it.
    """
    if _key_in_url(target, form):
        return Fault(Reason.KEY_IN_URL)
    values = _values(headers)
    if not values:
        return Fault(Reason.MISSING_API_KEY)
    if any("," in value for value in values):
        return Fault(Reason.AMBIGUOUS_CREDENTIALS)
    ours = [value for value in values if form.is_ours(value)]
    candidates = ours or [value for value in values if form.is_foreign(value)]
    if len(candidates) > 1:
        return Fault(Reason.AMBIGUOUS_CREDENTIALS)
    if not candidates or (ours and not checksum_holds(ours[0])):
        return Fault(Reason.INVALID_API_KEY)
    return digester.digests(candidates[0])


def _values(headers: Mapping[str, str]) -> list[str]:
    """The distinct, not empty values that are presented as keys."""
    values = [headers.get(name, "") for name in BARE_HEADERS]
    scheme, _, token = headers.get(AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        values.append(token.strip(" "))
    return list(dict.fromkeys(filter(None, values)))


def holds_key(text: str, form: KeyForm) -> bool:
    """Whether a value of our form stands somewhere in a text, such as a path or a model's name."""
    return _anywhere(form).search(text) is not None


@cache
def _anywhere(form: KeyForm) -> re.Pattern[str]:
    return re.compile(form.pattern())


def _key_in_url(target: str, form: KeyForm) -> bool:
    """Whether a parameter is called `key`, or a value of our form stands anywhere."""
    if holds_key(unquote_plus(target), form):
        return True
    _, found, query = target.partition("?")
    return bool(found) and _KEY_PARAMETER.search(query) is not None
