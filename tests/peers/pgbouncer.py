"""Debian's pgbouncer before a PostgreSQL: connections are lent out by transaction."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.certificates import Certificates
from peers.debian import program
from peers.ports import free_port
from peers.postgres import PASSWORD, USER, Postgres
from peers.process import Child

CONNECTIONS = 3
"""To each database: fewer than a test has threads, so that they take turns on each."""


@contextmanager
def pgbouncer(server: Postgres, *lines: str, certs: Certificates | None = None) -> Iterator[int]:
    """The port on which it listens; with `certs` only by TLS. `lines` are settings beyond."""
    with tempfile.TemporaryDirectory(prefix="tg-bouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # it gives up being root
        (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        port = free_port()
        if certs is not None:
            lines += (
                "client_tls_sslmode = require",
                f"client_tls_cert_file = {certs.cert}",
                f"client_tls_key_file = {certs.key}",
            )
        settings = (
            "[databases]",
            f"* = host=127.0.0.1 port={server.port}",
            "[pgbouncer]",
            *("listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir ="),
            *("auth_type = plain", f"auth_file = {folder / 'users'}", "user = nobody"),
            *("pool_mode = transaction", f"default_pool_size = {CONNECTIONS}"),
            *lines,
        )
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(settings) + "\n")
        child = Child([program("pgbouncer"), str(file)], log=folder / "log")
        child.wait_until(lambda: _listens(port), seconds=10, what="a port")
        try:
            yield port
        finally:
            child.end()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
