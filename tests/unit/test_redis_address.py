"""Where Redis is: what each form of the URL says, and one clear fault for what is none."""

from __future__ import annotations

import pytest

from store.counters.address import Address, Credentials, parse
from store.counters.tls import Tls
from store.errors import ConfigError

SECRET = Credentials(None, "secret")
HOST = ("redis.example", 6379)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis.example", Address("single", (HOST,))),
        ("redis://redis.example:7000/3", Address("single", (("redis.example", 7000),), db=3)),
        (
            "redis://ann:p%40ss%2F@redis.example/",
            Address("single", (HOST,), data=Credentials("ann", "p@ss/")),
        ),
        ("redis://:secret@[::1]:7000", Address("single", (("::1", 7000),), data=SECRET)),
        ("rediss://redis.example", Address("single", (HOST,), tls=Tls())),
        (
            "rediss://redis.example?ca=/ca.pem&cert=/c.pem&key=/k.pem",
            Address(
                "single",
                (HOST,),
                tls=Tls("/ca.pem", "/c.pem", "/k.pem"),
            ),
        ),
        ("unix:///run/redis.sock", Address("single", path="/run/redis.sock")),
        (
            "unix://:secret@/run/r.sock?db=2",
            Address("single", path="/run/r.sock", db=2, data=SECRET),
        ),
        (
            "redis+sentinel://a,b:7000/counters/1?sentinel_password=x",
            Address(
                "sentinel",
                (("a", 26379), ("b", 7000)),
                master="counters",
                db=1,
                sentinel=Credentials(None, "x"),
            ),
        ),
        ("redis+cluster://a:1,b:2,c", Address("cluster", (("a", 1), ("b", 2), ("c", 6379)))),
        ("rediss+cluster://a", Address("cluster", (("a", 6379),), tls=Tls())),
    ],
)
def test_each_form(url: str, address: Address) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:6379", "http://a", "redis:a", "redis://", "redis://:6379", "redis://a:b"),
        *("redis://a:0", "redis://a:70000", "redis://a:6379x", "redis://a:-1", "redis://a:\u0661"),
        *("redis://a,b", "redis://a/x", "redis://a/1/2", "redis://a?timeout=3", "redis://a?x"),
        *("redis://secret@a", "redis://:se#cret@a", "unix://host/path", "unix://", "unix:///a?x=1"),
        *(
            "redis+sentinel://a",
            "redis+sentinel://a/m/x",
            "redis+cluster://a/0",
            "redis+cluster://",
        ),
        *(
            "redis://a?ca=/x",
            "rediss://a?key=/x",
            "redis+cluster://a,,b",
            "redis://[::1",
            "redis://[::1]x",
            "redis://a/\u0661",
            "redis://a..b",
            f"redis+cluster://a,{'b' * 64}.c",
        ),
    ],
)
def test_what_is_none_is_one_clear_fault(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(url)
    assert len(raised.value.faults) == 1
    assert "TENSORGATE_REDIS_URL" in str(raised.value)


@pytest.mark.parametrize("url", ["redis://ann:hunter2@a?hunter2=1", "rediss+sentinel://:hunter2@a"])
def test_no_password_is_shown(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(url)
    assert "hunter2=1" not in str(raised.value)
    known = parse("redis+sentinel://ann:hunter2@a,[::1]/m?sentinel_password=hunter2")
    assert str(known) == "m by a:26379,[::1]:26379"
    assert "hunter2" not in repr(known)
