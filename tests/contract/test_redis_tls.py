"""Redis by TLS, with passwords: Debian's, as the wheel's Valkey speaks none.

Alone, as what a Sentinel names, and as a cluster; for the counters and for the feed's channel.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from counterhelp import PATIENT
from moneyhelp import ACCOUNT, draft, limits, seeded
from peers.certificates import Certificates, certificates
from peers.debian import program
from peers.ports import free_port
from peers.process import Child

from store.counters.address import parse
from store.counters.link import Link
from store.counters.model import Taken
from store.counters.node import Timeouts
from store.counters.redis import RedisCounters
from store.errors import ConfigError, StoreUnavailableError
from store.push import BEAT
from store.pushredis import RedisChannel
from tensorgate.valkey import fault

PASSWORD = "geheim-4711"
WATCHERS = "geheim-4712"
MASTER = "counters"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls") / "others")


@dataclass(frozen=True)
class Secured:
    """Where what is asked by TLS listens, and what stands behind the hosts in its URL."""

    kind: str
    port: int
    behind: str = ""

    def url(self, ca: Path, password: str = PASSWORD, more: str = "") -> str:
        return f"{self.kind}://:{password}@127.0.0.1:{self.port}{self.behind}?ca={ca}{more}"


def options(certs: Certificates, port: int) -> list[str]:
    return [
        *("--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"),
        *("--tls-cert-file", str(certs.cert), "--tls-key-file", str(certs.key)),
        *("--tls-ca-cert-file", str(certs.ca), "--tls-replication", "yes"),
    ]


def node(folder: Path, certs: Certificates, *more: str) -> tuple[Child, int]:
    """A server that asks nobody for a certificate, unless `more` says so."""
    folder.mkdir()
    port = free_port()
    child = Child(
        [
            *(program("redis-server"), *options(certs, port), "--dir", str(folder)),
            *("--save", "", "--requirepass", PASSWORD, "--tls-auth-clients", "no", *more),
        ],
        log=folder / "log",
    )
    return child, port


def usable(url: str) -> bool:
    return fault(url) is None


@pytest.fixture(scope="module")
def alone(ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    child, port = node(tmp_path_factory.mktemp("r") / "alone", ours)
    made = Secured("rediss", port)
    child.wait_until(lambda: usable(made.url(ours.ca)), seconds=10, what="an answer")
    yield made
    child.end()


@pytest.fixture(scope="module")
def watched(
    alone: Secured, ours: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("r")
    file = folder / "sentinel.conf"
    file.write_text(
        f"sentinel monitor {MASTER} 127.0.0.1 {alone.port} 1\n"
        f"sentinel auth-pass {MASTER} {PASSWORD}\n"
        f"requirepass {WATCHERS}\n"
    )
    port = free_port()
    argv = [program("redis-server"), str(file), "--sentinel", *options(ours, port)]
    child = Child([*argv, "--dir", str(folder), "--tls-auth-clients", "no"], log=folder / "log")
    made = Secured("rediss+sentinel", port, f"/{MASTER}")
    more = f"&sentinel_password={WATCHERS}"
    child.wait_until(lambda: usable(made.url(ours.ca, more=more)), seconds=10, what="an answer")
    yield made
    child.end()


@pytest.fixture(scope="module")
def clustered(ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One master that has all slots; its other port, which the others would use, is of no use."""
    folder = tmp_path_factory.mktemp("r") / "cluster"
    bus = str(free_port())
    more = ("--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", bus)
    child, port = node(folder, ours, *more)
    plain = Secured("rediss", port)
    child.wait_until(lambda: usable(plain.url(ours.ca)), seconds=10, what="an answer")
    with Link(parse(plain.url(ours.ca)), PATIENT) as link:
        link.command(b"", b"CLUSTER", b"ADDSLOTSRANGE", 0, 16383)
    made = Secured("rediss+cluster", port)
    child.wait_until(lambda: counts(made.url(ours.ca)), seconds=10, what="its slots")
    yield made
    child.end()


def counts(url: str) -> bool:
    try:
        with Link(parse(url), PATIENT) as link:
            counters = seeded(RedisCounters(link))
            asked = draft(1)
            return isinstance(counters.take(asked.request_id, asked, limits()), Taken)
    except StoreUnavailableError:
        return False


def heard(url: str) -> bool:
    """Whether what is sent on the channel comes back."""
    channel = RedisChannel(url, seconds=1)
    try:
        channel.open()
        channel.send(BEAT)
        return bool(channel.receive(1))
    finally:
        channel.close()


@pytest.mark.parametrize("kind", ["alone", "watched", "clustered"])
def test_it_counts_and_pushes(
    kind: str, request: pytest.FixtureRequest, ours: Certificates
) -> None:
    servers: Secured = request.getfixturevalue(kind)
    more = f"&sentinel_password={WATCHERS}" if kind == "watched" else ""
    url = servers.url(ours.ca, more=more)
    assert counts(url)
    assert heard(url)


@pytest.mark.parametrize("kind", ["alone", "watched", "clustered"])
def test_who_is_not_trusted_is_not_asked_and_that_is_said(
    kind: str, request: pytest.FixtureRequest, others: Certificates
) -> None:
    servers: Secured = request.getfixturevalue(kind)
    url = servers.url(others.ca)
    assert "its certificate is not trusted" in (fault(url) or "")
    with pytest.raises(StoreUnavailableError):
        heard(url)


def test_who_a_start_would_wait_for_in_vain_is_told_of_at_once(
    alone: Secured, ours: Certificates, others: Certificates
) -> None:
    for url, says in (
        (alone.url(others.ca), "its certificate is not trusted"),
        (alone.url(ours.ca, password="wrong"), "invalid username-password"),
    ):
        began = time.monotonic()
        with Link(parse(url), PATIENT) as link, pytest.raises(ConfigError, match=says) as raised:
            link.verify(20)
        assert time.monotonic() - began < 5
        assert "wrong@" not in str(raised.value)


def test_a_wrong_password_of_the_sentinels_is_told(watched: Secured, ours: Certificates) -> None:
    assert "invalid username-password" in (
        fault(watched.url(ours.ca, more="&sentinel_password=x")) or ""
    )


def test_without_tls_it_is_not_spoken_to(alone: Secured) -> None:
    assert "cannot be reached" in (fault(f"redis://:{PASSWORD}@127.0.0.1:{alone.port}") or "")


def test_a_file_that_is_not_there_is_named_before_anything_is_asked(alone: Secured) -> None:
    with (
        Link(parse(alone.url(Path("/no/such.pem")))) as link,
        pytest.raises(ConfigError, match=r"/no/such\.pem"),
    ):
        link.verify(20)


def test_a_server_that_wants_a_certificate_is_shown_ours(
    ours: Certificates, others: Certificates, tmp_path: Path
) -> None:
    child, port = node(tmp_path / "strict", ours, "--tls-auth-clients", "yes")
    strict = Secured("rediss", port)
    try:
        good = strict.url(ours.ca, more=f"&cert={ours.cert}&key={ours.key}")
        child.wait_until(lambda: usable(good), seconds=10, what="an answer")
        assert counts(good)
        for more in ("", f"&cert={others.cert}&key={others.key}"):
            assert fault(strict.url(ours.ca, more=more))
    finally:
        child.end()


def test_whom_the_system_trusts_does_not_count_beside_ours(
    alone: Secured, ours: Certificates, others: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ca` is who is trusted, and not who is trusted as well."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))
    assert usable(alone.url(ours.ca).partition("?")[0]), "the system's, where none is named"
    assert "is not trusted" in (fault(alone.url(others.ca)) or "")


def test_a_connection_is_made_within_the_times_of_a_check(
    alone: Secured, ours: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading certificates costs more than a handshake: that is done once, and when they change."""
    read: list[object] = []
    make = ssl.create_default_context

    def noted(*args: object, **given: object) -> ssl.SSLContext:
        read.append(given)
        return make(*args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(ssl, "create_default_context", noted)
    copy = ours.ca.with_name("copy.pem")
    copy.write_bytes(ours.ca.read_bytes())
    for _ in range(5):
        with Link(parse(alone.url(copy)), Timeouts(1, 1)) as link:
            link.command(ACCOUNT.id.encode(), b"PING")
    assert len(read) == 1
    copy.write_bytes(copy.read_bytes() + b"\n")
    with Link(parse(alone.url(copy)), Timeouts(1, 1)) as link:
        link.command(ACCOUNT.id.encode(), b"PING")
    assert len(read) == 2
