"""CSV that a page answers with: for a spreadsheet, and safe in one."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001  full-width ones count
_PART: Final = 1 << 16


def csv_answer(name: str, head: Sequence[str], rows: Iterator[Sequence[Any]]) -> Response:
    """A file to keep. No cell of it is read as a formula."""
    return StreamingResponse(
        _lines(head, rows),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def safe_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: a client may name a model as it likes."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _lines(head: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    # every text is quoted: left to itself, csv would let a lone carriage return break a row
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(head)
    yield _taken(buffer)  # at once: that it begins is seen before the first row is found
    for row in rows:
        writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in row])
        if buffer.tell() > _PART:
            yield _taken(buffer)
    yield buffer.getvalue()


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
