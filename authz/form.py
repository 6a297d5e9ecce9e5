"""The strict reading of a multipart form: one set of fields, whatever parser reads it next.

We forward the client's own bytes, so a form that two parsers could read differently where we
read it is refused. What is admitted is the narrow form that real clients send (RFC 7578 as
browsers, curl, httpx, requests, undici, Go and .NET write it):

- a plain boundary, which stands in the body only where a line of its own makes it a delimiter: a
  parser that takes a bare LF, trailing spaces or a cut line for one finds none that we did not;
- nothing before the first delimiter, nothing but line ends behind the last;
- parts with a Content-Disposition, whose `name` comes first, and at most the three more headers
  below; no folding, no escapes, no encodings: a quote ends where the next quote is, and names and
  file names hold no semicolon, so that searching and splitting parsers see the same names.

Cost: one search of the body for the boundary (2 ms for 10 MB of a recording, 30 ms at the worst)
and some microseconds for each part. The contents of files are never copied; parts, their heads
and the texts that we keep are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from authz.model import Fault, Reason

MAX_PARTS: Final = 128
MAX_HEAD_BYTES: Final = 4096  # of one part's headers; a file's name is twice in it, escaped
MAX_TEXT_BYTES: Final = 1 << 18  # of one wanted text; some servers cut or refuse at half a MB

# Only `charset` beside the boundary, and only as it is understood anyway. Lower case, as every
# client sends it: some servers search for just these words.
_CONTENT_TYPE: Final = re.compile(
    r"multipart/form-data *; *(?:charset=(?i:utf-8) *; *)?"
    r"boundary=(?P<quote>\"?)(?P<boundary>(?=[._+-]*[A-Za-z0-9])[A-Za-z0-9._+-]{1,70})(?P=quote)"
    r"(?: *; *charset=(?i:utf-8))?"
)

_NAME: Final = rb"[A-Za-z0-9_][A-Za-z0-9_.\[\]-]{0,99}"  # busboy cuts at 100
_NAME_UNQUOTED: Final = rb"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"  # .NET quotes only what it must
_TOKEN: Final = rb"[A-Za-z0-9_.+-]++"
_PARAMETER: Final = rb" *+; *+" + _TOKEN + rb"=(?:" + _TOKEN + rb'|"[ !#-\[\]-~]*+")'
_MEDIA_TYPE: Final = rb"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*+"

_HEADERS: Final[dict[bytes, re.Pattern[bytes]]] = {
    b"content-disposition": re.compile(
        rb' *+form-data; name=(?:"(?P<quoted>' + _NAME + rb')"|(?P<bare>' + _NAME_UNQUOTED + rb"))"
        rb'(?P<file>(?:; filename=(?:"[ !#-:<-\[\]-~\x80-\xff]*+"|' + _TOKEN + rb"))?"
        rb"(?:; filename\*=(?i:utf-8)''(?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-Fa-f]{2})++)?)"
    ),
    # multipart/mixed: some parsers look inside.
    b"content-type": re.compile(
        rb" *+(?!(?i:multipart|message)/)(?P<type>" + _MEDIA_TYPE + rb"/" + _MEDIA_TYPE + rb")"
        rb"(?P<parameters>(?:" + _PARAMETER + rb")*+)"
    ),
    b"content-transfer-encoding": re.compile(rb" *+(?i:binary|8bit|7bit)"),  # none, thus
    b"content-length": re.compile(rb" *+(?P<length>0|[1-9][0-9]{0,15})"),
}

# How a text may say that it is one. In the charsets but UTF-8 it must be ASCII.
_TEXT: Final = re.compile(
    rb" *+text/plain"
    rb'(?: *+; *+charset=(?P<quote>"?)(?P<charset>utf-8|us-ascii|iso-8859-1)(?P=quote))?',
    re.IGNORECASE,
)
_ENDS: Final = (b"", b"\r\n", b"\r\n\r\n")  # behind the last delimiter
_BOM: Final = b"\xef\xbb\xbf"
_CHARSET_FIELD: Final = "_charset_"  # RFC 7578, 4.6: it would change how the others are read
_STEM_END: Final = re.compile(r"[\[.]")


@dataclass(frozen=True, slots=True)
class Form:
    """What is read of a form.

    `texts` has the wanted fields that are there, as they stand (an empty one is there, though
    some servers take it for none). `files` counts the parts that a server may take for files.
    """

    texts: Mapping[str, str]
    files: int


@dataclass(frozen=True, slots=True)
class _Part:
    """One part: its name, how it is declared, and where its content lies in the body."""

    name: str
    is_file: bool
    is_text: bool
    charset: str
    start: int
    end: int


def read_form(raw: bytes, content_type: str, wanted: frozenset[str]) -> Form | Fault:
    """Read the wanted text fields of a multipart/form-data body, or say what is wrong with it.

    `content_type` is the request's header as it stands. A field that a server could take for a
    wanted one is a fault: a name that differs in case, `model[]`, one that stands twice, a file.
    """
    declared = _CONTENT_TYPE.fullmatch(content_type)
    if declared is None:
        return _fault("its Content-Type is not multipart/form-data with one plain boundary", None)
    delimiter = b"--" + declared["boundary"].encode()
    if not raw.startswith(delimiter):
        return _fault("it does not start with the boundary that its Content-Type names", 0)
    return _read_parts(raw, delimiter, wanted)


def _read_parts(raw: bytes, delimiter: bytes, wanted: frozenset[str]) -> Form | Fault:
    stems = _stems(wanted)
    texts: dict[str, str] = {}
    files, at = 0, len(delimiter)
    for _ in range(MAX_PARTS):
        part = _read_part(raw, at, delimiter)
        if isinstance(part, Fault):
            return part
        fault = _keep(raw, part, stems, texts)
        if fault is not None:
            return fault
        files += part.is_file
        at = part.end + 2 + len(delimiter)
        if raw.startswith(b"--", at):
            return _read_end(raw, at + 2) or Form(texts, files)
    return _fault(f"it has more than {MAX_PARTS} parts", at)


def _read_end(raw: bytes, at: int) -> Fault | None:
    """What is wrong behind the last delimiter, if anything is."""
    if raw[at : at + 5] in _ENDS:
        return None
    return _fault("something follows its last boundary", at)


def _read_part(raw: bytes, at: int, delimiter: bytes) -> _Part | Fault:
    """The part whose delimiter ends at this byte."""
    if not raw.startswith(b"\r\n", at):
        return _fault("its boundary is not a line of its own", at)
    head_end = raw.find(b"\r\n\r\n", at + 2, at + 2 + MAX_HEAD_BYTES)
    if head_end < 0:
        return _fault("the headers of a part do not end, or are too long", at + 2)
    following = raw.find(delimiter, at)
    if following < 0:
        return _fault("it ends before its last boundary", len(raw))
    start, end = head_end + 4, following - 2
    if end < start or not raw.startswith(b"\r\n", end):
        return _fault("its boundary stands inside a part", following)
    found = _read_head(raw[at + 2 : head_end], at + 2)
    return found if isinstance(found, Fault) else _declared(found, start, end, at + 2)


def _read_head(head: bytes, at: int) -> dict[bytes, re.Match[bytes]] | Fault:
    """A part's headers by lower-case name, each of a known form; they start at this byte."""
    fault = _line_fault(head, at)
    if fault is not None:
        return fault
    found: dict[bytes, re.Match[bytes]] = {}
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        form = _HEADERS.get(name)
        match = form and form.fullmatch(value)
        if match is None:
            return _fault(
                "a part has a header that forms do not need"
                if form is None
                else f"the {name.decode().title()} of a part is not in its plain form",
                at,
            )
        if name in found:
            return _fault("a part has a header twice", at)
        found[name] = match
        at += len(line) + 2
    return found


def _line_fault(head: bytes, at: int) -> Fault | None:
    """Why a part's headers are not the same lines of text to everyone, if they are not."""
    try:
        text = head.decode()
    except UnicodeDecodeError as fault:
        return _fault("the headers of a part are not UTF-8", at + fault.start)
    if text and text.splitlines() != text.split("\r\n"):
        return _fault("the headers of a part hold a line end other than CR LF", at)
    return None


def _declared(
    found: Mapping[bytes, re.Match[bytes]], start: int, end: int, at: int
) -> _Part | Fault:
    """A part by its headers, which start at this byte."""
    disposition, media = found.get(b"content-disposition"), found.get(b"content-type")
    if disposition is None:
        return _fault("a part has no Content-Disposition", at)
    length = found.get(b"content-length")
    if length is not None and int(length["length"]) != end - start:
        return _fault("the Content-Length of a part is not its length", at)
    name = (disposition["quoted"] or disposition["bare"]).decode()
    text = None if media is None else _TEXT.fullmatch(media[0])
    has_file = bool(disposition["file"])
    return _Part(
        name,
        is_file=has_file or (media is not None and not media["type"].lower().startswith(b"text/")),
        is_text=not has_file and (media is None or text is not None),
        charset="utf-8" if text is None else (text["charset"] or b"utf-8").decode().lower(),
        start=start,
        end=end,
    )


def _keep(raw: bytes, part: _Part, stems: Mapping[str, str], texts: dict[str, str]) -> Fault | None:
    """Put a part among the texts if it is a wanted field, or say why that is in dispute."""
    if part.name == _CHARSET_FIELD:
        return Fault(Reason.AMBIGUOUS_BODY, "a field sets the charset of others", param=part.name)
    wanted = stems.get(_stem(part.name))
    if wanted is None:
        return None
    if wanted != part.name:
        detail = f"a field's name differs from `{wanted}` only in case or in brackets"
        return Fault(Reason.AMBIGUOUS_BODY, detail, param=wanted)
    if wanted in texts:
        return Fault(Reason.AMBIGUOUS_BODY, "a field stands in it twice", param=wanted)
    text = _read_text(raw, part)
    if isinstance(text, Fault):
        return text
    texts[wanted] = text
    return None


def _read_text(raw: bytes, part: _Part) -> str | Fault:
    """The value of a part, if all read it alike."""
    if not part.is_text:
        detail = "a field that should be text is sent as a file or as another type"
        return Fault(Reason.AMBIGUOUS_BODY, detail, param=part.name)
    if part.end - part.start > MAX_TEXT_BYTES:
        detail = f"a text field is longer than {MAX_TEXT_BYTES} bytes"
        return _fault(detail, part.start + MAX_TEXT_BYTES)
    value = raw[part.start : part.end]
    if value.startswith(_BOM):
        return _fault("a text field starts with a byte order mark", part.start)
    if b"\0" in value:
        return _fault("a text field holds a NUL", part.start + value.index(b"\0"))
    try:
        return value.decode("utf-8" if part.charset == "utf-8" else "ascii")
    except UnicodeDecodeError as fault:
        return _fault("a text field is not UTF-8", part.start + fault.start)


@lru_cache(maxsize=64)
def _stems(wanted: frozenset[str]) -> Mapping[str, str]:
    """The wanted names by what others' names come down to."""
    return {_stem(name): name for name in wanted}


def _stem(name: str) -> str:
    """The member that a parser with nested names or without case puts a field in."""
    return _STEM_END.split(name, maxsplit=1)[0].lower()


def _fault(detail: str, offset: int | None) -> Fault:
    return Fault(Reason.MALFORMED_BODY, detail, offset=offset)
