"""Coming in by OpenID Connect: with a real provider, and with one that lies."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from peers.dashboard import PASSWORD, Browser, Dashboard, dashboard
from peers.oidc import LyingProvider, RealProvider, lying_provider, real_provider
from peers.ports import free_port
from sqlalchemy import text

from admin.oidc import Provider
from admin.settings import AdminSettings
from admin.signins import Flow, ProviderError
from store.records import Role

ANNA = "anna@example.org"
FLOW = "tensorgate_sign_in"
SECRET = "s3cret-of-more-than-112-bits"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    with real_provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="module")
def board(provider: RealProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("board")
    (folder / "secret").write_text("s3cret\n")
    port = free_port()
    with dashboard(
        folder,
        port=port,
        dashboard_url=f"http://127.0.0.1:{port}",
        oidc_issuer=provider.issuer,
        oidc_client_id="gate",
        oidc_client_secret_file=str(folder / "secret"),
        oidc_name="Example ID",
    ) as running:
        running.user("boss@example.org", role=Role.ADMIN)
        yield running


def back(browser: Browser, where: str) -> httpx2.Response:
    """Follow the provider's redirect, as a browser that keeps SameSite=Strict cookies does."""
    path = where.removeprefix(browser.client.base_url.scheme + "://")
    path = "/" + path.partition("/")[2]
    stranger = Browser(str(browser.client.base_url))
    stranger.client.headers = httpx2.Headers({"sec-fetch-site": "cross-site"})
    first = stranger.get(path)
    stranger.client.close()
    assert first.status_code == 200, "without its cookies it is asked once more"
    (again,) = re.findall(r'content="0;url=([^"]+)"', first.text)
    return browser.get(html.unescape(again))


def come_in(
    browser: Browser, provider: RealProvider, subject: str, query: str = ""
) -> httpx2.Response:
    sent = browser.get(f"/sign-in/oidc{query}")
    assert sent.status_code == 303
    return back(browser, provider.vouch(sent.headers["location"], subject))


def come_in_by_link(
    browser: Browser, provider: RealProvider, subject: str, token: str
) -> httpx2.Response:
    page = browser.post(f"/invite/{token}/oidc", {})
    assert page.status_code == 200
    (where,) = re.findall(r'content="0;url=([^"]+)"', page.text)
    return back(browser, provider.vouch(html.unescape(where), subject))


def link_for(board: Dashboard, email: str) -> str:
    account, boss = board.service.find_user(email), board.service.find_user("boss@example.org")
    assert account is not None
    page = board.browser(boss).post(f"/admin/users/{account.id}/link").text
    (token,) = re.findall(r"/invite/([\w-]{43})", page)
    return token


def test_who_is_linked_comes_in_and_who_is_not_does_not(
    board: Dashboard, provider: RealProvider
) -> None:
    provider.knows("anna-1", email=ANNA, email_verified=True)
    account = board.user(ANNA, password=PASSWORD)
    assert "Example ID" in board.browser().get("/sign-in").text
    stranger = board.browser()
    refused = come_in(stranger, provider, "anna-1")
    assert refused.status_code == 403, "a verified e-mail is no link"
    assert stranger.token is None
    linking = board.browser(account)
    page = linking.post("/account/identities")
    (where,) = re.findall(r'content="0;url=([^"]+)"', page.text)
    done = back(linking, provider.vouch(html.unescape(where), "anna-1"))
    assert done.headers["location"] == "/account?done=linked"
    browser = board.browser()
    entered = come_in(browser, provider, "anna-1", "?next=/usage")
    assert (entered.status_code, entered.headers["location"]) == (303, "/usage")
    page = browser.get("/account").text
    assert ANNA in page
    assert "anna-1" in page
    provider.knows("anna-2", email=ANNA, email_verified=True)
    assert come_in(board.browser(), provider, "anna-2").status_code == 403
    other = board.user("other@example.org", password=PASSWORD)
    taking = board.browser(other)
    where = re.findall(r'content="0;url=([^"]+)"', taking.post("/account/identities").text)[0]
    taken = back(taking, provider.vouch(html.unescape(where), "anna-1"))
    assert taken.status_code == 422, "it belongs to another account"
    form = {"issuer": provider.issuer, "subject": "anna-1"}
    assert board.browser(other).post("/account/identities/unlink", form).status_code == 404
    assert board.browser(account).post("/account/identities/unlink", form).status_code == 303
    assert come_in(board.browser(), provider, "anna-1").status_code == 403


def test_a_link_of_an_admin_links_an_identity_once(
    board: Dashboard, provider: RealProvider
) -> None:
    board.user("bob@example.org")
    token = link_for(board, "bob@example.org")
    browser = board.browser()
    assert f'action="/invite/{token}/oidc"' in browser.get(f"/invite/{token}").text
    assert browser.post("/invite/none/oidc", {}).status_code == 404
    assert come_in_by_link(browser, provider, "bob", token).status_code == 303
    assert "bob@example.org" in browser.get("/account").text
    assert come_in_by_link(board.browser(), provider, "eve", token).status_code == 403
    assert come_in(board.browser(), provider, "bob").status_code == 303
    form = {"issuer": provider.issuer, "subject": "bob"}
    assert browser.post("/account/identities/unlink", form).status_code == 422, "the last way in"


def test_what_is_asked_of_the_provider(board: Dashboard) -> None:
    browser = board.browser()
    sent = browser.get("/sign-in/oidc?next=//evil.example")
    asked = {n: v[0] for n, v in parse_qs(urlsplit(sent.headers["location"]).query).items()}
    kept = json.loads(base64.urlsafe_b64decode(browser.client.cookies[FLOW]))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(kept["verifier"].encode()).digest())
    assert asked == {
        "response_type": "code",
        "client_id": "gate",
        "redirect_uri": f"{board.url}/sign-in/oidc/callback",
        "scope": "openid email",
        "state": kept["state"],
        "nonce": kept["nonce"],
        "code_challenge": challenge.decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    assert min(len(kept[name]) for name in ("state", "nonce", "verifier")) == 43
    assert kept["after"] == ""
    cookie = sent.headers["set-cookie"]
    assert "HttpOnly; Max-Age=600; Path=/; SameSite=strict" in cookie
    assert "s3cret" not in sent.headers["location"] + cookie


def test_an_answer_that_was_not_asked_for_here(board: Dashboard, provider: RealProvider) -> None:
    """Login CSRF: eve's own code and state, planted in Anna's browser."""
    eves, annas = board.browser(), board.browser()
    where = provider.vouch(eves.get("/sign-in/oidc").headers["location"], "bob")
    planted = "/" + where.split("/", 3)[3]
    assert annas.get(f"{planted}&again=1").status_code == 403
    annas.get("/sign-in/oidc")
    assert annas.get(planted).status_code == 403
    assert annas.token is None
    assert "Max-Age=0" in annas.get(planted + "&again=1").headers["set-cookie"]
    assert back(eves, where).status_code == 303
    assert back(eves, where).status_code == 403, "once only"


def test_another_session_than_the_one_that_began_links_nothing(
    board: Dashboard, provider: RealProvider
) -> None:
    eve = board.user("eve@example.org", password=PASSWORD)
    victim = board.user("victim@example.org", password=PASSWORD)
    browser = board.browser(eve)
    where = re.findall(r'content="0;url=([^"]+)"', browser.post("/account/identities").text)[0]
    come_back = provider.vouch(html.unescape(where), "eves-identity")
    browser.client.cookies.set("tensorgate_session", board.session_of(victim))
    other = board.browser(victim)
    other.client.cookies.set(FLOW, browser.client.cookies[FLOW])
    answer = back(other, come_back)
    assert answer.headers["location"] == "/sign-in"
    with board.engine.connect() as connection:
        asked = text("SELECT count(*) FROM identities WHERE subject = 'eves-identity'")
        assert connection.execute(asked).scalar() == 0


def test_a_denial_is_told_quietly(board: Dashboard, provider: RealProvider) -> None:
    browser = board.browser()
    sent = browser.get("/sign-in/oidc").headers["location"]
    where = provider.deny(sent)
    state = parse_qs(urlsplit(sent).query)["state"][0]
    if "state=" not in where:  # RFC 6749 asks for it; this provider leaves it out
        where += f"&state={state}"
    answer = back(browser, where)
    assert answer.status_code == 403
    assert "(access_denied)" in answer.text
    browser.get("/sign-in/oidc")
    kept = json.loads(base64.urlsafe_b64decode(browser.client.cookies[FLOW]))
    query = {"state": kept["state"], "error": "<script>alert(1)</script>", "again": "1"}
    answer = browser.get("/sign-in/oidc/callback", params=query)
    assert answer.status_code == 403
    assert "script>alert" not in answer.text


@pytest.mark.parametrize("kept", ["", "x", "e30=", "bnVsbA==", "\u00e9", "A" * 3000])
def test_what_is_kept_may_be_anything(board: Dashboard, kept: str) -> None:
    browser = board.browser()
    headers = {"cookie": f"{FLOW}={kept}".encode()}
    answer = browser.client.get("/sign-in/oidc/callback?code=x&state=&again=1", headers=headers)
    assert answer.status_code == 403


def test_settings_that_are_half_a_provider() -> None:
    with pytest.raises(ValueError, match="DASHBOARD_URL"):
        AdminSettings(
            oidc_issuer="https://id.example.org", oidc_client_id="x", oidc_client_secret_file="x"
        )
    with pytest.raises(ValueError, match="OIDC_CLIENT_ID"):
        AdminSettings(oidc_issuer="https://id.example.org", dashboard_url="https://x.example.org")
    with pytest.raises(ValueError, match="https"):
        AdminSettings(oidc_issuer="http://id.example.org")


# -- a provider that lies: straight at the reader of its answers


@pytest.fixture(scope="module")
def liar() -> Iterator[LyingProvider]:
    with lying_provider() as running:
        yield running


@pytest.fixture
def reader(liar: LyingProvider, tmp_path_factory: pytest.TempPathFactory) -> Provider:
    liar.claims, liar.id_token, liar.document = {"nonce": "n"}, None, {}
    liar.header, liar.signs_with = {"alg": "RS256", "kid": "one"}, liar.key
    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_text(SECRET)
    settings = AdminSettings(
        oidc_issuer=liar.issuer,
        oidc_client_id="gate",
        oidc_client_secret_file=secret,
        dashboard_url="http://127.0.0.1:1",
    )
    return Provider(settings, "http://127.0.0.1:1/sign-in/oidc/callback")


ASKED = Flow("s", "n", "v" * 43)


def test_a_true_answer_is_believed(reader: Provider, liar: LyingProvider) -> None:
    said = reader.finish(ASKED, "code")
    assert (said.issuer, said.subject, said.email) == (liar.issuer, "eve", None)
    assert liar.asked["code_verifier"] == "v" * 43
    assert liar.asked["code"] == "code"
    for verified, email in ((True, "e@x.org"), ("true", None), (False, None), (1, None)):
        liar.claims = {"nonce": "n", "email": "e@x.org", "email_verified": verified}
        assert reader.finish(ASKED, "code").email == email


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"aud": ["gate", "another"], "azp": "another"},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"nbf": 9_999_999_999},
        {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    ],
    ids=str,
)
def test_claims_that_are_not_the_answer(
    reader: Provider, liar: LyingProvider, claims: dict[str, Any]
) -> None:
    liar.claims = {"nonce": "n"} | claims
    if None in claims.values():
        plain = {"iss": liar.issuer, "aud": "gate", "sub": "eve", "iat": 1, "exp": 9_999_999_999}
        plain = {n: v for n, v in (plain | {"nonce": "n"}).items() if n not in claims}
        liar.id_token = jwt.encode(liar.header, plain, liar.key)
    with pytest.raises(ProviderError):
        reader.finish(ASKED, "code")


def test_signatures_that_are_none(reader: Provider, liar: LyingProvider) -> None:
    liar.signs_with = RSAKey.generate_key(2048, parameters={"kid": "one"})
    with pytest.raises(ProviderError):
        reader.finish(ASKED, "code")
    liar.header, liar.signs_with = {"alg": "HS256"}, OctKey.import_key(SECRET)
    with pytest.raises(ProviderError):
        reader.finish(ASKED, "code")
    plain = {"iss": liar.issuer, "aud": "gate", "sub": "eve", "iat": 1, "exp": 9_999_999_999}
    parts = ({"alg": "none"}, plain | {"nonce": "n"})
    liar.id_token = ".".join(
        [
            *(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts),
            "",
        ]
    )
    with pytest.raises(ProviderError):
        reader.finish(ASKED, "code")
    for broken in ("", "x", "a.b.c", "....."):
        liar.id_token = broken or " "
        with pytest.raises(ProviderError):
            reader.finish(ASKED, "code")


def test_a_key_that_is_new_is_read(reader: Provider, liar: LyingProvider) -> None:
    reader.finish(ASKED, "code")
    old = liar.key
    liar.key = liar.signs_with = RSAKey.generate_key(2048, parameters={"kid": "two"})
    liar.header = {"alg": "RS256", "kid": "two"}
    try:
        assert reader.finish(ASKED, "code").subject == "eve"
    finally:
        liar.key = old


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ],
    ids=str,
)
def test_a_document_that_leads_elsewhere(
    reader: Provider, liar: LyingProvider, document: dict[str, Any]
) -> None:
    liar.document = document
    with pytest.raises(ProviderError):
        reader.begin()


def test_a_provider_that_is_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_text(SECRET)
    settings = AdminSettings(
        oidc_issuer=f"http://127.0.0.1:{free_port()}",
        oidc_client_id="gate",
        oidc_client_secret_file=secret,
        dashboard_url="http://127.0.0.1:1",
    )
    with pytest.raises(ProviderError, match="by password"):
        Provider(settings, "http://127.0.0.1:1").begin()


def test_nobody_waits_for_a_provider_that_was_out_a_moment_ago(
    reader: Provider, liar: LyingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar.document = {"issuer": "https://evil.example"}
    with pytest.raises(ProviderError):
        reader.begin()
    liar.document = {}
    with pytest.raises(ProviderError):
        reader.begin()
    monkeypatch.setattr("admin.oidc.PAUSE_SECONDS", 0.0)
    url, _ = reader.begin()
    assert url.startswith(liar.issuer)


def test_no_page_of_elsewhere_links_its_readers_to_an_account_of_its_choice(
    board: Dashboard, provider: RealProvider
) -> None:
    board.user("mallory@example.org")
    token = link_for(board, "mallory@example.org")
    browser = board.browser()
    for site in ("cross-site", "same-site", "none"):
        headers = {"sec-fetch-site": site}
        assert browser.post(f"/invite/{token}/oidc", {}, headers=headers).status_code == 403
    # nor by an address, also behind a sign-in that leads there
    assert browser.get(f"/invite/{token}/oidc").status_code == 405
    assert come_in(browser, provider, "victim", f"?invite={token}").status_code == 403
    assert come_in_by_link(browser, provider, "mallory", token).status_code == 303
