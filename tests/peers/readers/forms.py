"""Reads forms as Python's servers do; runs in the venv `forms`, driven by peers/formreaders.py.

A line in is {"type": CONTENT_TYPE, "body": BASE64, "chunk": BYTES}, a line out has what each
reader sees: {READER: {"fields": [[NAME, VALUE or null for a file], ...]} or {"error": TEXT}}.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import django
import python_multipart
from django.conf import settings
from django.core.files.uploadhandler import MemoryFileUploadHandler, TemporaryFileUploadHandler
from django.http.multipartparser import MultiPartParser as DjangoParser
from starlette.requests import Request as StarletteRequest
from werkzeug.formparser import FormDataParser

Fields = list[tuple[str, str | None]]

settings.configure(DATA_UPLOAD_MAX_MEMORY_SIZE=None, DATA_UPLOAD_MAX_NUMBER_FIELDS=None)
django.setup()
logging.disable()  # what a reader refuses it says by what it raises
loop = asyncio.new_event_loop()


class Chunks(io.RawIOBase):
    """A body that comes in pieces of at most so many bytes, as from a network."""

    def __init__(self, body: bytes, chunk: int) -> None:
        self._rest, self._chunk = io.BytesIO(body), chunk

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._rest.read(self._chunk if size < 0 else min(size, self._chunk))


def starlette(content_type: str, body: bytes, chunk: int) -> Fields:
    """As FastAPI reads forms: vLLM, SGLang and most others."""
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def read() -> Fields:
        headers = [(b"content-type", content_type.encode("latin-1"))]
        request = StarletteRequest({"type": "http", "headers": headers}, receive)
        async with request.form() as form:
            return [(n, v if isinstance(v, str) else None) for n, v in form.multi_items()]

    return loop.run_until_complete(read())


def python_multipart_alone(content_type: str, body: bytes, chunk: int) -> Fields:
    fields: Fields = []

    def on_field(field: Any) -> None:
        fields.append((field.field_name.decode(), (field.value or b"").decode(errors="replace")))

    def on_file(file: Any) -> None:
        fields.append((file.field_name.decode(), None))
        file.close()

    headers = {"Content-Type": content_type.encode("latin-1")}
    python_multipart.parse_form(headers, io.BytesIO(body), on_field, on_file, chunk_size=chunk)
    return fields


def werkzeug(content_type: str, body: bytes, _: int) -> Fields:
    """As Flask reads forms.

    In its own chunks of 64 KiB: where one ends right behind a boundary, it leaves a CR at the
    value's end (as of 3.1), which nothing in a form can prevent.
    """
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    _, form, files = FormDataParser(silent=False).parse_from_environ(environ)
    for each in files.listvalues():
        for file in each:
            file.close()
    return [*form.items(multi=True), *((name, None) for name, _ in files.items(multi=True))]


def django_rest(content_type: str, body: bytes, chunk: int) -> Fields:
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body))}
    handlers = [MemoryFileUploadHandler(), TemporaryFileUploadHandler()]
    form, files = DjangoParser(meta, Chunks(body, chunk), handlers).parse()
    for _, each in files.lists():
        for file in each:
            file.close()
    texts = [(name, value) for name, values in form.lists() for value in values]
    return texts + [(name, None) for name, values in files.lists() for _ in values]


READERS: dict[str, Callable[[str, bytes, int], Fields]] = {
    "starlette": starlette,
    "python-multipart": python_multipart_alone,
    "werkzeug": werkzeug,
    "django": django_rest,
}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        body = base64.b64decode(asked["body"])
        seen: dict[str, Any] = {}
        for name, read in READERS.items():
            try:
                seen[name] = {"fields": read(asked["type"], body, asked["chunk"] or len(body) or 1)}
            except Exception as fault:  # noqa: BLE001 - whatever it is, the reader refused
                seen[name] = {"error": f"{type(fault).__name__}: {fault}"}
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
