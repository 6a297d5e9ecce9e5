"""An Envoy configuration, read strictly as the typed messages that it claims to be."""

from __future__ import annotations

from typing import Any, Final

from contract.data_plane import PREFIX, bootstrap, message_class

_PLACEHOLDER: Final = {"@type": f"{PREFIX}google.protobuf.Empty"}


def read_bootstrap(config: Any) -> tuple[bootstrap.Bootstrap, frozenset[str]]:
    """The typed configuration, and the names of the types in it that envoy-data-plane lacks.

    Every "@type" that it knows is read as that message, in any depth; the others stand as Empty.
    Raises KeyError for a field that its message has not, ValueError or TypeError for a value that
    its field cannot hold.
    """
    unknown: set[str] = set()
    typed = bootstrap.Bootstrap.from_dict(_only_known(config, unknown))
    bytes(typed)  # encoding looks at every value once more
    return typed, frozenset(unknown)


def _only_known(node: Any, unknown: set[str]) -> Any:
    if isinstance(node, list):
        return [_only_known(each, unknown) for each in node]
    if not isinstance(node, dict):
        return node
    if "@type" in node:
        name = node["@type"].removeprefix(PREFIX)
        if message_class(name) is None:
            unknown.add(name)
            return _PLACEHOLDER
    return {key: _only_known(each, unknown) for key, each in node.items()}
