"""Settings that every process shares, read from the environment (prefix `TENSORGATE_`).

Everything is validated at start; `load` turns all that is wrong into one ConfigError.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from store.errors import ConfigError
from store.keyformat import DEFAULT_PREFIX, Digester, KeyForm, Pepper, read_peppers
from store.logform import LogFormat

PREFIX = "TENSORGATE_"
DATABASE_NAME = "tensorgate.db"

Names = Annotated[tuple[str, ...], NoDecode]


def split_names(value: object) -> object:
    """`a, b` → ("a", "b"): the form that lists have in the environment."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class StoreSettings(BaseSettings):
    """Where the state is and how keys look."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore")

    state: Path = Path(".tensorgate")
    runtime: Path = Path("/run/tensorgate")
    database_url: str | None = Field(default=None, repr=False)
    redis_url: str | None = Field(default=None, repr=False)
    catalog: Path = Path("catalog.yaml")
    pepper_file: Path | None = None
    key_prefixes: Names = (DEFAULT_PREFIX,)
    foreign_keys: str | None = None
    dashboard_url: str | None = None
    log_format: LogFormat = "text"

    _split = field_validator("key_prefixes", mode="before")(split_names)

    @field_validator("foreign_keys")
    @classmethod
    def _is_regex(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as fault:
                raise ValueError(f"not a regular expression: {fault}") from None
        return value

    @field_validator("dashboard_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("write it as https://host[:port]")
        return value.rstrip("/") if value else None

    @model_validator(mode="after")
    def _has_key_form(self) -> Self:
        self.key_form()
        return self

    @property
    def sql_url(self) -> str:
        """The database as an SQLAlchemy URL; without one, SQLite in the state folder."""
        return self.database_url or f"sqlite:///{(self.state / DATABASE_NAME).absolute()}"

    def key_form(self) -> KeyForm:
        """Which strings are keys here."""
        return KeyForm(self.key_prefixes, self.foreign_keys)

    def digester(self) -> Digester:
        """Digests under the peppers of `pepper_file`. Raises ConfigError."""
        return Digester(_peppers(self.pepper_file) if self.pepper_file else ())


def _peppers(path: Path) -> tuple[Pepper, ...]:
    try:
        return read_peppers(path.read_text())
    except OSError as fault:
        why = fault.strerror or "cannot be read"
    except ValueError as fault:
        why = str(fault)
    raise ConfigError("The settings cannot be used:", (f"{PREFIX}PEPPER_FILE ({path}): {why}",))


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """Read settings from the environment. Raises ConfigError that lists everything wrong."""
    try:
        return kind()
    except ValidationError as fault:
        faults = tuple(
            f"{PREFIX}{'_'.join(str(part) for part in error['loc'][:1]).upper() or '*'}: "
            f"{error['msg'].removeprefix('Value error, ')}"
            for error in fault.errors(include_url=False, include_input=False)
        )
        # `from None`: pydantic's own text would repeat the values, and one may be a password
        raise ConfigError("The settings cannot be used:", faults) from None
