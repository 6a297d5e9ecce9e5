"""A pooler before PostgreSQL that lends connections out by transaction, and TLS on the way."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from moneyhelp import KEY, charge, hold, mint
from peers.certificates import Certificates, certificates
from peers.pgbouncer import CONNECTIONS, pgbouncer
from peers.postgres import PASSWORD, USER, Postgres

from store.engines import open_engine
from store.errors import StoreUnavailableError
from store.keys import KeyRepository
from store.ledger import Ledger
from store.ledgerreader import LedgerReader
from store.pushpostgres import PostgresChannel
from store.upgrades import check_current

SILENT = ("ignore_startup_parameters = options",)


@pytest.fixture
def name(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url.split("?", maxsplit=1)[0].rpartition("/")[2]


def url(port: int, name: str, options: str = "", host: str = "127.0.0.1") -> str:
    return f"postgresql://{USER}:{PASSWORD}@{host}:{port}/{name}{options}"


@pytest.mark.parametrize("lines", [(), SILENT], ids=["refuses options", "drops options"])
def test_many_read_and_book_through_few_connections(
    lines: tuple[str, ...], postgres: Postgres, name: str
) -> None:
    """A statement that was prepared on one connection is not there on the next."""
    threads, turns = 2 * CONNECTIONS, 20
    with pgbouncer(postgres, *lines) as port:
        engine = open_engine(url(port, name))
        mint(engine, KEY)

        def work(_: int) -> None:
            with KeyRepository(engine) as keys:
                ledger = Ledger(engine)
                for _ in range(turns):
                    assert keys.by_digests([b"none"]) is None
                    keys.last_change()
                    one = hold()
                    ledger.copy_holds([one])
                    ledger.book([(one, charge(one))])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        found = LedgerReader(engine).verify()
        assert (found.rows, found.open_holds, found.faults) == (threads * turns, 0, ())
        engine.dispose()


def test_nobody_listens_on_a_connection_that_others_are_lent(postgres: Postgres, name: str) -> None:
    """It would be told of what it never reads; the feed goes on by polling."""
    with pgbouncer(postgres) as port:
        engine = open_engine(url(port, name))
        check_current(engine)
        channel = PostgresChannel(engine, seconds=2)
        with pytest.raises(StoreUnavailableError, match="pooler"):
            channel.open()
        channel.close()
        with engine.connect() as connection:
            channels = connection.exec_driver_sql("SELECT pg_listening_channels()").all()
        assert channels == []
        engine.dispose()


def test_that_it_has_no_connection_left_is_told(postgres: Postgres, name: str) -> None:
    with pgbouncer(postgres, "max_client_conn = 1") as port:
        engine = open_engine(url(port, name))
        with (
            engine.connect(),
            pytest.raises(StoreUnavailableError, match="it has no connection left"),
        ):
            check_current(engine)
        engine.dispose()


def test_without_a_pooler_statements_are_prepared(postgres: Postgres, name: str) -> None:
    engine = open_engine(postgres.url(name))
    with engine.connect() as connection:
        for _ in range(10):
            connection.exec_driver_sql("SELECT 1")
        prepared = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements")
        assert prepared.scalar_one() > 0
    engine.dispose()


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> list[Certificates]:
    return [certificates(tmp_path_factory.mktemp("tls") / each) for each in ("ours", "others")]


def test_a_server_is_verified_in_full(
    postgres: Postgres, name: str, certs: list[Certificates]
) -> None:
    ours, others = certs

    def why(options: str, host: str = "127.0.0.1") -> str | None:
        engine = open_engine(url(port, name, f"?sslmode={options}", host))
        try:
            check_current(engine)
        except StoreUnavailableError as fault:
            return str(fault)
        finally:
            engine.dispose()
        return None

    with pgbouncer(postgres, certs=ours) as port:
        assert why(f"verify-full&sslrootcert={ours.ca}") is None
        assert why(f"verify-full&sslrootcert={ours.ca}", "localhost") is None
        refused = why(f"verify-full&sslrootcert={others.ca}")
        assert refused is not None
        assert "its certificate is not trusted" in refused
        missing = why(f"verify-full&sslrootcert={Path('/no/such.pem')}")
        assert missing is not None
        assert "the file of sslrootcert is not there" in missing
