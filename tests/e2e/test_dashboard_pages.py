"""The dashboard in a real Chromium, before a real gate: keys from their making to their end."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest
from peers.chromium import browser
from peers.client import Answer, call
from peers.recorder import Pause, Recorder, json_reply, sse_reply
from peers.stack import Stack
from peers.visitor import PASSWORD, Visitor, visitor
from playwright.sync_api import Browser, Error, Page, expect

from admin.service import AdminService, open_service
from store.records import Role
from store.settings import StoreSettings

pytestmark = pytest.mark.browser

CATALOG: Final = """\
models:
  llama-3.1-8b: {price: {input: 50, output: 80}, context_tokens: 8192, max_output_tokens: 512}
  qwen3-coder: {price: {input: 400, output: 1600}, context_tokens: 8192, max_output_tokens: 512}
  bge-m3: {price: {input: 1, output: 0}, context_tokens: 8192}
  "mistral-*": {price: {input: 1, output: 2}, context_tokens: 8192, max_output_tokens: 512}
plans:
  free: {max_keys: 2, max_budget_usd: 5, max_rpm: 60}
  pro: {max_keys: 100, max_budget_usd: 500, max_rpm: 600, account_budget_usd: 1000}
default_plan: free
"""
REVOKES: Final = re.compile(r"^Revoke ")
KEY: Final = re.compile(r"sk-tg_[0-9A-Za-z]{49}")
PHONE: Final = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
CUT_CALLS: Final = """[...document.querySelectorAll(".table-calls td")].filter((cell) => {
    const { left, right } = cell.getBoundingClientRect();
    return left < 0 || right > innerWidth || cell.scrollWidth > cell.clientWidth + 1;
}).map((cell) => cell.textContent)"""  # those of which something has to be scrolled to
OVERFLOW: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def gate(start_stack: Any, _shared_recorder: Recorder) -> Stack:
    running: Stack = start_stack(_shared_recorder.address, catalog=CATALOG)
    return running


@pytest.fixture
def base(gate: Stack) -> str:
    return f"http://127.0.0.1:{gate.admin_port}"


class People:
    """Accounts made as they are needed: throttles and plans of one test touch no other.

    Made in this process, as a command costs a second.
    """

    def __init__(self, gate: Stack) -> None:
        self._settings = StoreSettings(state=gate.state, catalog=gate.folder / "catalog.yaml")

    @contextmanager
    def use(self) -> Iterator[AdminService]:
        with open_service(self._settings, actor="test") as service:
            yield service

    def new(self, **more: Any) -> str:
        email = f"person-{time.time_ns()}@a-department-with-a-name.example.com"  # as long as some
        with self.use() as service:
            service.add_user(email, password=PASSWORD, **more)
        return email

    def mint(self, email: str, alias: str, models: str = "*") -> str:
        with self.use() as service:
            return service.mint(email, alias, models=models).key


@pytest.fixture(scope="module")
def people(gate: Stack) -> People:
    return People(gate)


@pytest.fixture
def person(chromium: Browser, base: str, people: People) -> Iterator[Visitor]:
    """Somebody on the free plan, signed in, without a key."""
    with visitor(chromium, base, permissions=["clipboard-read", "clipboard-write"]) as someone:
        someone.sign_in(people.new())
        yield someone


def create(someone: Visitor, alias: str, *models: str, budget: str | None = None) -> str:
    """Create a key by hand; the plaintext as the page shows it."""
    page = someone.go("/keys/new")
    page.get_by_label("Alias").fill(alias)
    for model in models:
        page.get_by_role("checkbox", name=model).check()
    if budget is not None:
        page.get_by_label("Budget for 30 days").fill(budget)
    page.get_by_role("button", name="Create key").click()
    shown = page.locator("#key").inner_text()
    assert KEY.fullmatch(shown)
    return shown


def chat(gate: Stack, key: str, model: str = "llama-3.1-8b") -> Answer:
    return call(gate, key=key, model=model)


def error_of(page: Page, name: str) -> str:
    """What stands beside a field, tied to it for those who do not see it."""
    found = page.locator(f"#{name}-error")
    described = page.locator(f"[aria-describedby~={name}-error]")
    expect(described).to_have_count(1)
    return found.inner_text()


def test_a_new_key_is_copied_used_and_its_cost_is_seen(
    person: Visitor, gate: Stack, recorder: Recorder
) -> None:
    page = person.page
    expect(page.get_by_text("You have no API keys yet.")).to_be_visible()
    page.get_by_role("link", name="Create your first key").click()
    page.get_by_label("Alias").fill("laptop")
    page.get_by_role("checkbox", name="llama-3.1-8b").check()
    expect(page.get_by_text("One call can cost at most")).to_contain_text("$0.6554")
    page.get_by_label("Budget for 30 days").fill("2.50")
    page.get_by_role("radio", name="30 days").check()
    page.get_by_role("button", name="Create key").click()

    # shown and copied whole, and the way to use it filled in
    expect(page.get_by_text("Copy your key now. It is shown only once.")).to_be_visible()
    key = page.locator("#key").inner_text()
    assert KEY.fullmatch(key)
    page.get_by_role("button", name="Copy key").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == key
    assert f"{gate.url}/v1/chat/completions" in page.locator("#snippet-curl").inner_text()
    page.get_by_role("tab", name="Python").click()
    assert f'base_url="{gate.url}/v1"' in page.locator("#snippet-python").inner_text()
    expect(page.locator("#snippet-curl")).to_be_hidden()
    page.get_by_role("tab", name="Coding agents").click()
    assert f"ANTHROPIC_BASE_URL={gate.url}\n" in page.locator("#snippet-claude").inner_text()

    # what is refused is said, and then the first call is seen
    expect(page.locator("#first-call")).to_contain_text("Waiting for the first call")
    assert chat(gate, key, "qwen3-coder").code == "model_not_allowed"
    expect(page.locator("#first-call")).to_contain_text("model_not_allowed")
    assert chat(gate, key).status == 200
    expect(page.locator("#first-call")).to_contain_text("The first call has arrived.")

    # 7 tokens in, 2 out
    page.get_by_role("link", name="See what it cost").click()
    expect(page.locator("dd[title='$0.00051']")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="laptop")
    expect(row.filter(has_text="metered")).to_contain_text("$0.0006")
    page.get_by_role("link", name="API keys", exact=True).click()
    row = page.get_by_role("row").filter(has_text="laptop")
    expect(row).to_contain_text("$0.0006 of $2.50")
    expect(row).to_contain_text(key[-4:])
    expect(row).to_contain_text("just now")


def test_a_plan_that_is_full_says_so(person: Visitor) -> None:
    create(person, "first", "llama-3.1-8b")
    create(person, "second", "llama-3.1-8b")
    page = person.go("/keys/new")
    expect(page.get_by_text("Your plan's keys are all in use.")).to_be_visible()
    page.get_by_label("Alias").fill("third")
    page.get_by_role("radio", name="All models").check()
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("alert")).to_contain_text("You hold 2 of 2 live keys on the free plan.")
    assert page.locator("#key").count() == 0


def test_a_key_is_changed_and_revoked(person: Visitor, gate: Stack, recorder: Recorder) -> None:
    key = create(person, "laptop", "llama-3.1-8b")
    page = person.go("/keys")
    page.get_by_role("link", name="Edit laptop").click()
    page.get_by_label("Alias").fill("notebook")
    page.get_by_role("checkbox", name="qwen3-coder").check()
    page.get_by_label("Requests a minute").fill("17")
    page.get_by_role("button", name="Save changes").click()
    expect(page.get_by_role("status").first).to_contain_text("Saved")
    own = call(gate, "/v1/key", key=key).json()
    assert (own["alias"], own["models"]) == ("notebook", ["llama-3.1-8b", "qwen3-coder"])
    assert "17" in json.dumps(own)
    assert chat(gate, key, "qwen3-coder").status == 200

    # a wrong alias revokes nothing, the right one does
    page.get_by_role("link", name="Revoke notebook").click()
    page.get_by_label("Type “notebook” to revoke it").fill("laptop")
    page.get_by_role("button", name="Revoke key").click()
    assert "Type notebook" in error_of(page, "confirm")
    assert chat(gate, key).status == 200
    page.get_by_label("Type “notebook” to revoke it").fill("notebook")
    page.get_by_role("button", name="Revoke key").click()
    page.wait_for_url("**/keys?done=revoked")
    assert (answer := chat(gate, key)).status == 401
    assert answer.code == "api_key_revoked"
    expect(page.get_by_role("row").filter(has_text="notebook")).to_have_count(0)
    page.get_by_role("link", name="Revoked 1").click()
    expect(page.get_by_role("row").filter(has_text="notebook")).to_have_count(1)
    assert page.get_by_role("link", name="Revoke notebook").count() == 0


def test_a_key_is_never_shown_again(person: Visitor) -> None:
    page = person.page
    key = create(person, "once", "llama-3.1-8b")
    left = "dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))"
    assert key in page.content()
    page.evaluate(left)  # a browser that keeps the page for its back button keeps no key
    assert key not in page.content()
    page.get_by_role("link", name="I have copied it").click()
    page.wait_for_url("**/keys")
    assert key not in page.content()
    for move in (page.go_back, page.go_forward):
        with suppress(Error):  # the answer to a form that the browser did not keep is no page
            move()
        page.wait_for_timeout(300)
        assert key not in page.evaluate("document.documentElement.outerHTML")
    for path in ("/keys", "/keys?show=expired", "/usage", "/usage/calls", "/account"):
        assert key not in person.go(path).content()


def test_the_back_button_shows_nothing_of_who_signed_out(person: Visitor, people: People) -> None:
    """Nor does another account that signs in there find it."""
    page = person.page
    create(person, "left-behind", "llama-3.1-8b")
    for path in ("/keys", "/usage", "/keys"):
        assert "left-behind" in person.go(path).content()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in*")
    for _ in range(5):
        with suppress(Error):
            page.go_back()
        page.wait_for_timeout(200)
        assert "left-behind" not in page.evaluate("document.documentElement.outerHTML")
    person.sign_in(people.new())
    assert "left-behind" not in page.content()
    for path in ("/keys", "/usage"):
        assert "left-behind" not in person.go(path).content()


def test_reloading_the_answer_mints_no_other_and_shows_none(person: Visitor, gate: Stack) -> None:
    page = person.page
    key = create(person, "once", "llama-3.1-8b")
    page.reload()
    expect(page.get_by_role("heading", name="This form was sent before")).to_be_visible()
    assert key not in page.content()
    expect(page.get_by_text(f"{key[:6]}…{key[-4:]}")).to_be_visible()
    assert person.go("/keys").get_by_role("link", name=REVOKES).count() == 1


def test_a_double_click_mints_one_key_and_shows_it(person: Visitor) -> None:
    page = person.go("/keys/new")
    page.get_by_label("Alias").fill("twice")
    page.get_by_role("checkbox", name="llama-3.1-8b").check()
    page.get_by_role("button", name="Create key").dblclick()
    assert KEY.fullmatch(page.locator("#key").inner_text())
    assert person.go("/keys").get_by_role("link", name=REVOKES).count() == 1


def test_a_form_that_is_sent_twice_mints_one_key(person: Visitor) -> None:
    """As a browser without scripts sends it, where somebody clicks twice."""
    page = person.go("/keys/new")
    sent = {
        "form": page.locator("input[name=form]").input_value(),
        "alias": "twice",
        "scope": "all",
        "budget": "1",
        "rpm": "1",
        "days": "7",
    }
    answers = [
        page.request.post(f"{person.base}/keys/new", form=sent, headers={"origin": person.base})
        for _ in range(2)
    ]
    assert [answer.status for answer in answers] == [200, 409]
    assert [KEY.search(answer.text()) is not None for answer in answers] == [True, False]
    assert person.go("/keys").get_by_role("link", name=REVOKES).count() == 1


def test_everything_works_without_scripts(
    chromium: Browser, base: str, people: People, gate: Stack, recorder: Recorder
) -> None:
    with visitor(chromium, base, java_script_enabled=False) as someone:
        someone.sign_in(people.new())
        key = create(someone, "plain", "bge-m3", budget="1")
        page = someone.page
        for name in ("curl", "python", "claude"):  # all tabs stand below one another
            expect(page.locator(f"#snippet-{name}")).to_be_visible()
        assert chat(gate, key, "bge-m3").status == 200
        page = someone.go("/keys")
        page.get_by_role("link", name="Edit plain").click()
        page.get_by_label("Budget for 30 days").fill("1.5")
        page.get_by_role("button", name="Save changes").click()
        expect(page.get_by_role("row").filter(has_text="plain")).to_contain_text("of $1.50")
        page.get_by_role("link", name="Revoke plain").click()
        page.get_by_label("Type “plain” to revoke it").fill("plain")
        page.get_by_role("button", name="Revoke key").click()
        expect(page.get_by_role("status").first).to_contain_text("revoked")
        assert chat(gate, key, "bge-m3").code == "api_key_revoked"


def test_every_field_says_what_is_wrong_with_it(person: Visitor) -> None:
    page = person.go("/keys/new")
    page.get_by_label("Alias").fill("Not An Alias")
    page.get_by_label("Budget for 30 days").fill("5.01")
    page.get_by_label("Requests a minute").fill("61")
    page.get_by_role("button", name="Create key").click()
    assert "lower-case letters" in error_of(page, "alias")
    assert "at least one model" in error_of(page, "models")
    assert "free plan allows a budget of at most $5.00" in error_of(page, "budget")
    assert "at most 60 requests a minute" in error_of(page, "rpm")
    # what was typed is still there
    assert page.get_by_label("Alias").input_value() == "Not An Alias"
    assert page.get_by_label("Requests a minute").input_value() == "61"
    create(person, "taken", "bge-m3")
    page = person.go("/keys/new")
    page.get_by_label("Alias").fill("taken")
    page.get_by_role("checkbox", name="bge-m3").check()
    page.get_by_role("button", name="Create key").click()
    assert "already has the alias" in error_of(page, "alias")


def test_a_duplicate_begins_as_the_key_is(person: Visitor) -> None:
    create(person, "agent", "qwen3-coder", "bge-m3", budget="1.25")
    page = person.go("/keys")
    page.get_by_role("link", name="Duplicate agent").click()
    assert page.get_by_label("Alias").input_value() == "agent-2"
    assert page.get_by_label("Budget for 30 days").input_value() == "1.25"
    assert page.get_by_role("checkbox", name="qwen3-coder").is_checked()
    assert not page.get_by_role("checkbox", name="llama-3.1-8b").is_checked()
    page.get_by_role("button", name="Create key").click()
    assert KEY.fullmatch(page.locator("#key").inner_text())


def test_a_page_that_was_left_open_changes_no_younger_key(
    person: Visitor, gate: Stack, chromium: Browser
) -> None:
    create(person, "job", "bge-m3")
    left = person.page.context.new_page()
    left.goto(f"{person.base}/keys")
    left.get_by_role("link", name="Revoke job").click()
    page = person.go("/keys")
    page.get_by_role("link", name="Revoke job").click()
    page.get_by_label("Type “job” to revoke it").fill("job")
    page.get_by_role("button", name="Revoke key").click()
    page.wait_for_url("**/keys?done=revoked")
    younger = create(person, "job", "bge-m3")
    left.get_by_label("Type “job” to revoke it").fill("job")
    left.get_by_role("button", name="Revoke key").click()
    left.wait_for_load_state()
    assert call(gate, "/v1/key", key=younger).status == 200


def test_keyboard_only(chromium: Browser, base: str, people: People) -> None:
    """From signing in to a revoked key; wherever the focus is, it can be seen."""
    with visitor(chromium, base) as someone:
        page = someone.go("/sign-in")

        def press(*keys: str) -> None:
            for each in keys:
                page.keyboard.press(each)

        def reach(name: str) -> None:
            for _ in range(60):
                here = page.evaluate(
                    "(() => { const e = document.activeElement; const ring = e.closest("
                    "'.segment, .input-group') || e; return {name: e.getAttribute('aria-label') || "
                    "(e.labels && e.labels[0] ? e.labels[0].innerText : e.innerText) || '', "
                    "ring: getComputedStyle(ring).outlineStyle}; })()"
                )
                if here["name"].strip().startswith(name):
                    assert here["ring"] != "none", f"the focus on {name} cannot be seen"
                    return
                page.keyboard.press("Tab")
            raise AssertionError(f"{name} cannot be reached with Tab")

        def write(text: str) -> None:
            """Into the field that has the focus by itself, once the page is there."""
            expect(page.locator("input:focus")).to_be_visible()
            page.keyboard.type(text)

        write(people.new())
        press("Tab")
        write(PASSWORD)
        press("Enter")
        page.wait_for_url("**/keys")
        press("Tab", "Enter")  # past the navigation
        reach("Create your first key")
        press("Enter")
        page.wait_for_url("**/keys/new")
        write("hands")
        reach("bge-m3")
        press("Space")
        reach("90 days")
        press("ArrowLeft")
        reach("Create key")
        press("Enter")
        expect(page.locator("#key")).to_be_visible()
        reach("curl")
        press("ArrowRight")
        expect(page.locator("#snippet-python")).to_be_visible()
        reach("I have copied it")
        press("Enter")
        page.wait_for_url("**/keys")
        expect(page.get_by_role("cell", name="in 30 d", exact=True)).to_be_visible()
        reach("Revoke hands")
        press("Enter")
        page.wait_for_url("**/revoke")
        write("hands")
        press("Enter")
        page.wait_for_url("**/keys?done=revoked")


def a_busy_account(gate: Stack, recorder: Recorder, people: People, email: str) -> list[str]:
    """Two keys that called, streamed, and were refused; their plaintexts."""
    minted = [
        people.mint(email, alias, models)
        for alias, models in (("laptop", "llama-3.1-8b,qwen3-coder"), ("ci-runner", "bge-m3"))
    ]
    assert chat(gate, minted[0]).status == chat(gate, minted[1], "bge-m3").status == 200
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    piece = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    recorder.answer = sse_reply(
        Pause(0.2), piece, Pause(0.3), last, {"choices": [], "usage": usage}, "[DONE]"
    )
    body = {"model": "llama-3.1-8b", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    assert call(gate, key=minted[0], body=json.dumps(body).encode()).status == 200
    recorder.answer = json_reply({"error": {"message": "broken"}}, 500)
    assert chat(gate, minted[0]).status == 500
    recorder.forget()
    for _ in range(3):
        assert chat(gate, minted[0], "bge-m3").code == "model_not_allowed"
    booked = "select count(*) from ledger where user = ?"
    tallied = (
        "select coalesce(sum(calls), 0) from refused join accounts on accounts.id = account_id "
        "where email = ?"
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (
        gate.sql(booked, email) < 4 or gate.sql(tallied, email) < 3
    ):
        time.sleep(0.1)
    return minted


def test_usage_is_what_was_called(
    person: Visitor, gate: Stack, recorder: Recorder, people: People
) -> None:
    email = people.new()
    person.page.get_by_role("button", name="Sign out").click()
    person.sign_in(email)
    a_busy_account(gate, recorder, people, email)
    page = person.go("/usage")

    def stat(name: str) -> str:
        return page.locator(".stat").filter(has_text=name).locator("dd").first.inner_text()

    # 7 of $50 and 2 of $80; 7 of $1; 5 of $50 and 3 of $80, for a million each
    assert page.locator("dd[title='$0.001007']").inner_text() == "$0.0011"
    assert (stat("Calls"), stat("Tokens"), stat("Refused")) == ("4", "26", "3")
    # the charts are drawn, from tables that say the same
    drawn = page.evaluate(
        "[...document.querySelectorAll('.chart canvas')].map(c => c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.some(v => v))"
    )
    assert len(drawn) == 5  # spend, budget, refusals, how long, first token
    assert all(drawn)
    today = page.locator("#spend-table tbody tr").last
    values = today.locator("td").evaluate_all("cells => cells.map(c => +c.dataset.value)")
    assert sorted(values) == [7_000, 1_000_000]
    page.get_by_role("link", name="Key", exact=True).click()
    heads = page.locator("#spend-table thead th").all_text_contents()
    assert [head.partition(" ")[0] for head in heads] == ["Day", "laptop", "ci-runner"]
    reasons = page.locator("#refusals-table thead th").all_text_contents()
    assert reasons == ["Day", "model_not_allowed"]
    # the first token came after the pause before it, and before the one after it
    took = page.locator("#first-table tbody tr").last.locator("td").first
    assert 200_000 <= int(took.get_attribute("data-value") or 0) < 480_000

    # the calls, one by its id, and a refused one, too
    page.get_by_role("link", name="All calls").click()
    rows = page.locator("table.table-calls tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.first).to_contain_text("released")
    expect(rows.first).to_contain_text("500")
    request_id = rows.nth(1).locator("a").get_attribute("title") or ""
    page.get_by_label("Request id").fill(request_id)
    page.get_by_role("button", name="Search").click()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("metered")
    page.get_by_label("Request id").fill("nobody-knows-it")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("None of your calls has the request id")).to_be_visible()

    # and as CSV
    text = page.request.get(f"{person.base}/usage.csv?days=7").text()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert {(line["alias"], line["model"], line["calls"]) for line in lines} == {
        ("laptop", "llama-3.1-8b", "3"),
        ("ci-runner", "bge-m3", "1"),
    }
    assert sum(int(line["charge_usd"].replace(".", "")) for line in lines) == 1_007_000
    text = page.request.get(f"{person.base}/usage/calls.csv").text()
    assert [line["basis"] for line in csv.DictReader(io.StringIO(text))].count("metered") == 3


def test_a_refused_call_is_found_by_its_id(person: Visitor, gate: Stack, people: People) -> None:
    key = create(person, "mine", "bge-m3")
    refused = chat(gate, key, "qwen3-coder")
    page = person.go(f"/usage/calls?q={refused.headers['x-request-id']}")
    expect(page.get_by_role("heading", name="This call was refused")).to_be_visible()
    expect(page.locator(".note")).to_contain_text("may not call qwen3-coder")
    # not so another's
    theirs = people.mint(people.new(), "a", "bge-m3")
    refused = chat(gate, theirs, "qwen3-coder")
    page = person.go(f"/usage/calls?q={refused.headers['x-request-id']}")
    expect(page.get_by_text("None of your calls has the request id")).to_be_visible()
    assert "qwen3-coder" not in page.content()


def pages_of(gate: Stack, email: str) -> list[str]:
    """Every page that this admin can open by its address."""
    key = gate.sql(_KEY_OF, email)
    return [
        "/keys",
        "/keys?q=lap",
        "/keys?q=nothing-like-it",
        "/keys?show=expired",
        "/keys/new",
        f"/keys/new?from={key}",
        f"/keys/{key}/edit",
        f"/keys/{key}/revoke",
        "/usage",
        "/usage?by=team&days=365",
        "/usage/calls",
        "/usage/calls?q=nothing-like-it",
        "/account",
        "/admin/usage",
        "/admin/usage?by=user",
        f"/admin/usage?user={email}&key={key}",
        "/admin/usage/calls",
        "/admin/users",
        "/admin/users/new",
        "/admin/teams",
        "/admin/audit",
        "/admin/system",
    ]


_KEY_OF: Final = (
    "select keys.id from keys join accounts on accounts.id = account_id where email = ? limit 1"
)


@pytest.fixture(scope="module")
def admin(gate: Stack, _shared_recorder: Recorder, people: People) -> str:
    """An admin whose account is busy."""
    email = people.new(plan="pro", role=Role.ADMIN, team="research")
    a_busy_account(gate, _shared_recorder, people, email)
    return email


@pytest.mark.parametrize(
    ("phone", "colours"),
    [(False, "dark"), (True, "light")],
    ids=["desktop-dark", "phone-light"],
)
def test_every_page_can_be_used_by_everybody(
    chromium: Browser, base: str, gate: Stack, admin: str, phone: bool, colours: str
) -> None:
    """No rule of axe is broken, and at 360 pixels nothing has to be scrolled sideways."""
    options: dict[str, Any] = {"color_scheme": colours} | (PHONE if phone else {})
    with visitor(chromium, base, **options, reduced_motion="reduce") as someone:
        someone.go("/sign-in")
        faults = {"/sign-in": someone.violations()}
        someone.sign_in(admin)
        for path in pages_of(gate, admin):
            page = someone.go(path)
            faults[path] = someone.violations()
            if phone:
                assert page.evaluate(OVERFLOW) <= 0, path
                assert page.evaluate(CUT_CALLS) == [], path
        someone.go("/keys/new").get_by_role("button", name="Create key").click()
        faults["errors"] = someone.violations()
        create(someone, f"seen-{colours}-{phone}".lower(), "bge-m3")
        faults["reveal"] = someone.violations()
        if phone:
            assert someone.page.evaluate(OVERFLOW) <= 0
    assert {path: found for path, found in faults.items() if found} == {}


def test_colours_follow_the_system_and_the_switch(person: Visitor) -> None:
    page = person.page
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    switch = page.get_by_role("button", name="Colours")
    switch.click()
    assert page.evaluate(ground) == light
    # chosen for good, on every page
    person.go("/usage")
    assert page.evaluate(ground) == light
    switch.click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == dark
    switch.click()
    assert page.evaluate(ground) == light


def test_twenty_keys_are_listed_searched_and_told_apart(
    chromium: Browser, base: str, gate: Stack, people: People
) -> None:
    email = people.new(plan="pro")
    long = "a-name-that-is-as-long-as-an-alias-may-be-so-that-it-has-to-fit"
    with people.use() as service:
        for alias in [long[:63].rstrip("-"), *(f"worker-{number}" for number in range(27))]:
            service.mint(email, alias, models="*")
    expired = gate.sql(_KEY_OF.replace("limit 1", "and alias = 'worker-3'"), email)
    gate.expire(expired)
    with visitor(chromium, base, viewport={"width": 1280, "height": 800}) as someone:
        page = someone.sign_in(email)
        expect(page.get_by_text("27 of 100 keys on the pro plan.")).to_be_visible()
        rows = page.get_by_role("link", name=REVOKES)
        expect(rows).to_have_count(25)
        assert page.evaluate(OVERFLOW) <= 0
        page.get_by_role("link", name="Older").click()
        expect(rows).to_have_count(2)
        page.get_by_label("Search keys").fill("worker-2")
        page.get_by_label("Search keys").press("Enter")
        expect(rows).to_have_count(8)  # 2, 20 to 26
        page = someone.go("/keys?show=expired")
        expect(page.get_by_role("cell").filter(has_text="worker-3")).to_have_count(1)
        assert page.get_by_role("link", name="Edit worker-3").count() == 0
