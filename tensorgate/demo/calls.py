"""Reading a call's JSON. Whatever does not fit is a BadCallError that names the member."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request

from tensorgate.demo.answers import Prompt

Json = dict[str, Any]

_TEXT_MEMBERS: Final = ("text", "content", "output", "arguments", "input")


class BadCallError(Exception):
    """The call cannot be answered; `param` is the member at fault, if it is one."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Call:
    """The members of a call's body, and who the gate says is calling."""

    members: Mapping[str, Any]
    caller: str | None

    def get(self, name: str) -> Any:
        """A member, None where it is missing or null."""
        return self.members.get(name)

    def positive(self, name: str, at_most: int | None = None) -> int | None:
        """A whole number of 1 or more, None where it is missing or null."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadCallError(f"`{name}` must be a whole number of 1 or more.", name)
        if at_most is not None and value > at_most:
            raise BadCallError(f"`{name}` can be at most {at_most}.", name)
        return value

    def flag(self, name: str) -> bool:
        """A boolean, False where it is missing or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise BadCallError(f"`{name}` must be true or false.", name)
        return bool(value)

    def strings(self, name: str) -> tuple[str, ...]:
        """A string or a list of strings, empty ones dropped; () where missing or null."""
        value = self.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, str) for each in values):
            raise BadCallError(f"`{name}` must be a string or a list of strings.", name)
        return tuple(each for each in values if each)

    def prompts(self, name: str) -> list[Prompt]:
        """One prompt or several, each a string or a list of token numbers."""
        value = self.get(name)
        several = isinstance(value, list) and not _is_numbers(value)
        prompts = [_prompt(each) for each in (value if several else [value])]
        if not prompts or None in prompts:
            raise BadCallError(
                f"`{name}` must be a string, a list of strings, or lists of token numbers.", name
            )
        return [prompt for prompt in prompts if prompt is not None]

    def conversation(self, name: str, *preamble: Any) -> Prompt:
        """The messages under `name`, after what stands outside of them (system, tools)."""
        messages = self.get(name)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list) or not messages:
            raise BadCallError(f"`{name}` must be a list with at least one message.", name)
        if not all(isinstance(message, dict) for message in messages):
            raise BadCallError(f"Each of `{name}` must be an object with role and content.", name)
        said = [" ".join(_texts(message)) for message in messages]
        by_user = [
            text
            for message, text in zip(messages, said, strict=True)
            if message.get("role") == "user"
        ]
        before = [text for each in preamble for text in _texts(each)]
        return Prompt("\n".join([*before, *said]), (by_user or said)[-1])


def _is_numbers(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(each, int) for each in value)


def _prompt(value: Any) -> Prompt | None:
    if isinstance(value, list) and _is_numbers(value):
        text = " ".join(str(number) for number in value)
        return Prompt(text, text)
    return Prompt(value, value) if isinstance(value, str) and value else None


def _texts(value: Any) -> list[str]:
    """The text in a message's content, however its parts nest, in order."""
    texts: list[str] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                texts.append(text)
            case list() as parts:
                waiting.extend(reversed(parts))
            case dict() as part:
                waiting.extend(part.get(name) for name in reversed(_TEXT_MEMBERS))
    return texts


async def read_call(request: Request) -> Call:
    """Read the body as one JSON object. Raises BadCallError."""
    try:
        members = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise BadCallError("The body is not JSON.") from None
    if not isinstance(members, dict):
        raise BadCallError("The body must be a JSON object.")
    user, alias = (request.headers.get(f"x-tensorgate-{name}") for name in ("user", "alias"))
    return Call(members, f"{user}'s key “{alias}”" if user and alias else None)
