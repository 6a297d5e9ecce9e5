"""A Valkey of our own, for several workers on one machine where no Redis was named.

It listens on a socket in the private runtime folder and nowhere else, and writes nothing to a
disk: what it counts is counted anew from the ledger and the open holds whenever it has started.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from store.counters.address import parse
from store.errors import ConfigError, StoreError
from tensorgate.binaries import valkey_path

SOCKET_NAME: Final = "valkey.sock"


def url(runtime: Path) -> str:
    """How the processes reach it."""
    return f"unix://{runtime / SOCKET_NAME}"


def argv(runtime: Path) -> tuple[str, ...]:
    """Its command line. `noeviction`: a count that is thrown away would be a limit that is none."""
    return (
        str(valkey_path()),
        *("--port", "0"),
        *("--unixsocket", str(runtime / SOCKET_NAME)),
        *("--unixsocketperm", "600"),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--maxmemory-policy", "noeviction"),
        *("--dir", str(runtime)),
        *("--daemonize", "no"),
    )


def fault(address: str) -> str | None:
    """Why the Redis or Valkey at an address cannot be counted in; None: it can. No password."""
    from store.counters.link import Link  # noqa: PLC0415  one worker alone never waits for redis-py

    try:
        with Link(parse(address)) as link:
            link.verify()
    except ConfigError as why:
        return "; ".join(why.faults)
    except StoreError as why:
        return str(why).partition(". ")[0].rstrip(".")
    return None
