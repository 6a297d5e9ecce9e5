"""envoy-data-plane: an independent reading of Envoy's API, as betterproto2 dataclasses.

It is imported here alone, because its use of pydantic warns and in our tests a warning is an error.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Final

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.data.accesslog import v3 as data
    from envoy_data_plane.envoy.service.accesslog import v3 as accesslog
    from envoy_data_plane.envoy.service.auth import v3 as auth
    from envoy_data_plane.envoy.type import v3 as types
    from envoy_data_plane.google import protobuf, rpc
    from envoy_data_plane.message_pool import default_message_pool

if TYPE_CHECKING:
    import betterproto2

__all__ = [
    "PREFIX",
    "accesslog",
    "auth",
    "bootstrap",
    "core",
    "data",
    "message_class",
    "message_name",
    "protobuf",
    "rpc",
    "types",
]

PREFIX: Final = "type.googleapis.com/"


def message_class(full_name: str) -> type[betterproto2.Message] | None:
    """The dataclass of a message by its protobuf name, None where the package has none."""
    package = [word for word in full_name.split(".") if word[:1].islower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import_module(".".join(["envoy_data_plane", *package]))
    except ModuleNotFoundError:
        return None
    return default_message_pool.url_to_type.get(PREFIX + full_name)


def message_name(message_class: type[betterproto2.Message]) -> str:
    """The protobuf name of one of their dataclasses."""
    return default_message_pool.type_to_url[message_class].removeprefix(PREFIX)
