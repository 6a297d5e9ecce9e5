"""By which names the dashboard is served, what links are made of, and who may read its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from statehelp import new_state

from admin.service import AdminService
from admin.settings import AdminSettings
from admin.signins import SignIns, Visitor
from admin.web.app import make_app
from admin.web.desk import Desk
from store.clock import wall_us
from store.engines import open_engine
from store.records import Role
from store.settings import StoreSettings

BOSS = "boss@example.org"
PASSWORD = "correct horse battery staple"


@pytest.fixture
def state(tmp_path: Path) -> StoreSettings:
    return new_state(tmp_path)


@pytest.fixture
def desks(state: StoreSettings) -> Iterator[list[Desk]]:
    made: list[Desk] = []
    yield made
    for desk in made:
        desk.keys.close()
        desk.engine.dispose()


def opened(desks: list[Desk], state: StoreSettings, **changes: object) -> Desk:
    """As a process with these settings has it; nothing listens."""
    settings = AdminSettings.model_validate(state.model_dump() | changes)
    desks.append(Desk(settings, open_engine(settings.sql_url), wall_us, lambda: ()))
    return desks[-1]


def ask(
    desk: Desk, path: str, *, peer: str = "127.0.0.1", post: bool = False, **headers: str
) -> httpx2.Response:
    """One request from an address, as a page of ours sends it."""

    async def asked() -> httpx2.Response:
        transport = httpx2.ASGITransport(make_app(desk), client=(peer, 4711))
        sent = {"sec-fetch-site": "same-origin"} | headers
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://gate", headers=sent
        ) as client:
            return await (client.post(path, data={"x": "y"}) if post else client.get(path))

    return asyncio.run(asked())


EVERYWHERE = {"admin_listen": "0.0.0.0:8081"}
PUBLISHED = EVERYWHERE | {"dashboard_url": "http://keys.example.org"}


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "127.0.0.1:8081", 200),
        ({}, "evil.example", 421),
        (EVERYWHERE, "localhost:8081", 200),
        (EVERYWHERE, "evil.example", 421),
        (EVERYWHERE, "192.0.2.1:8081", 421),
        ({"admin_listen": "192.0.2.1:8081"}, "192.0.2.1:8081", 200),
        (PUBLISHED, "keys.example.org", 200),
        (PUBLISHED, "KEYS.example.org:80", 200),
        (PUBLISHED, "evil.example", 421),
        (PUBLISHED, "keys.example.org.evil.example", 421),
        (PUBLISHED, "evil.example@keys.example.org:x", 421),
    ],
)
def test_only_names_that_are_known_are_served(
    desks: list[Desk], state: StoreSettings, settings: dict[str, str], host: str, status: int
) -> None:
    desk = opened(desks, state, **settings)
    assert ask(desk, "/sign-in", host=host).status_code == status
    assert ask(desk, "/readyz", host=host).status_code == 200, "probes call us by any name"


@pytest.mark.parametrize("settings", [{}, EVERYWHERE, PUBLISHED])
def test_a_link_is_never_made_of_a_name_that_was_sent(
    desks: list[Desk], state: StoreSettings, settings: dict[str, str]
) -> None:
    desk = opened(desks, state, **settings)
    use = AdminService(desk.keys, desk.settings, actor="cli:tester")
    use.add_user(BOSS, role=Role.ADMIN, password=PASSWORD)
    account = use.add_user("bob@example.org", make_one=False).account
    doors = SignIns(desk.people, desk.settings, wall_us)
    token = doors.by_password(BOSS, PASSWORD, Visitor("127.0.0.1", "a test")).token
    cookie = f"tensorgate_session={token}"
    path = f"/admin/users/{account.id}/link"
    refused = ask(desk, path, post=True, cookie=cookie, host="evil.example")
    assert refused.status_code == 421
    assert "/invite/" not in refused.text
    made = ask(desk, path, post=True, cookie=cookie, host="localhost")
    named = desk.settings.dashboard_url or "http://localhost"
    assert f"{named}/invite/" in made.text


@pytest.mark.parametrize(
    ("settings", "peer", "status"),
    [
        ({}, "127.0.0.1", 200),
        ({}, "::1", 200),
        (EVERYWHERE, "127.0.0.1", 200),
        (EVERYWHERE, "192.0.2.7", 404),
        ({"dashboard_url": "http://127.0.0.1:8081"}, "127.0.0.1", 200),
        (PUBLISHED, "127.0.0.1", 404),  # a proxy on this machine, for whoever comes through it
        (PUBLISHED | {"admin_metrics_from": "192.0.2.0/24,10.0.0.1"}, "192.0.2.7", 200),
        (PUBLISHED | {"admin_metrics_from": "192.0.2.0/24,10.0.0.1"}, "10.0.0.2", 404),
        (PUBLISHED | {"admin_metrics_from": "192.0.2.0/24"}, "not-an-address", 404),
    ],
)
def test_metrics_are_there_for_whom_they_are_meant(
    desks: list[Desk], state: StoreSettings, settings: dict[str, str], peer: str, status: int
) -> None:
    answer = ask(opened(desks, state, **settings), "/metrics", peer=peer)
    assert answer.status_code == status
    assert ("tensorgate_admin" in answer.text) == (status == 200)


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_what_a_proxy_passes_on_gets_no_metrics(
    desks: list[Desk], state: StoreSettings, name: str
) -> None:
    """An ingress is in a network of the cluster's too, and passes on what anybody asks for."""
    made = opened(desks, state, **PUBLISHED, admin_metrics_from="10.0.0.0/8")
    assert ask(made, "/metrics", peer="10.1.2.3").status_code == 200
    assert ask(made, "/metrics", peer="10.1.2.3", **{name: "10.1.2.4"}).status_code == 404


def test_networks_that_are_none_are_said_so() -> None:
    with pytest.raises(ValueError, match="networks with commas"):
        AdminSettings(admin_metrics_from="everybody")  # type: ignore[arg-type]
