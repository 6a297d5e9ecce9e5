"""The error tree. Driver errors are wrapped once, at the edge of this package.

TensorgateError
├── InputError            what a person gave is not acceptable; the text says what to do
│   ├── PlanLimitError    a cap of the account's plan (code: plan_limit_keys, _budget, _rpm)
│   ├── NotFoundError     no such account or key, or not one of the asker's
│   ├── RepeatedError     the same form was sent before; names what came of it
│   └── ConfigError       settings, catalog or pepper file; `str()` lists every fault
└── StoreError            a store cannot do its part now
    ├── StoreUnavailableError  no answer, or not in time: fail closed, try again
    │   ├── NotRunningError    there is no authz to ask on this state
    │   └── UnansweredError    it was asked to do something, and did it or not: nobody knows
    ├── JournalDamagedError    the journal of holds has a hole in its middle; names the byte
    └── SchemaMismatchError    the database is not at the revision that this code was made for

Texts are written for the person who reads them in a terminal: what is wrong, then what to do.
None ever holds a plaintext key, a password or a pepper.
"""

from __future__ import annotations


class TensorgateError(Exception):
    """The root: whatever of ours may be raised on purpose."""


class InputError(TensorgateError):
    """What a person gave cannot be accepted; `code` is stable, the text is for people."""

    def __init__(self, message: str, *, code: str = "invalid_input") -> None:
        super().__init__(message)
        self.code = code


class PlanLimitError(InputError):
    """A cap of the account's plan stands in the way."""


class NotFoundError(InputError):
    """No such thing, or one that belongs to somebody else: the two look alike."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="not_found")


class RepeatedError(InputError):
    """The same form was sent before, and did its work then; `subject` is what came of it."""

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message, code="repeated")
        self.subject = subject


class ConfigError(InputError):
    """Configuration that cannot be used. `faults` holds one line for each thing wrong."""

    def __init__(self, headline: str, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join((headline, *(f"  {fault}" for fault in faults))), code="config")
        self.faults = faults


class StoreError(TensorgateError):
    """A store cannot do its part now."""


class StoreUnavailableError(StoreError):
    """No answer, or none in time. The caller fails closed."""


class NotRunningError(StoreUnavailableError):
    """No authz serves this state, so there is nobody to ask."""


class UnansweredError(StoreUnavailableError):
    """What was asked for may have been done, or may be done yet: no answer came in time."""


class JournalDamagedError(StoreError):
    """The journal of holds cannot be read beyond a byte, and what follows is not a torn tail."""


class SchemaMismatchError(StoreError):
    """The database is not at the revision that this code was made for."""
