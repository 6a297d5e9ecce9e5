"""How a process logs: lines for people, or JSON, a line each, for those who collect them.

All of it is the standard library's logging; structlog only renders. It is not imported where
nobody asked for JSON. A record's `fields` (extra={"fields": {…}}) are members of the line's object.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

LogFormat = Literal["text", "json"]

FIELDS: Final = "fields"


def log_as(name: str, form: LogFormat = "text") -> None:
    """Log to stderr from here on, as the process of this name (empty: the only one)."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_json_lines(name))
    else:
        who = f"{name}: " if name else ""
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {who}%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _json_lines(name: str) -> logging.Formatter:
    import structlog  # noqa: PLC0415  only where somebody asked for JSON

    def members(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
        if name:
            event["process"] = name
        event.update(getattr(event["_record"], FIELDS, {}))
        return event

    return structlog.stdlib.ProcessorFormatter(
        processors=[
            members,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(sort_keys=True),
        ]
    )
