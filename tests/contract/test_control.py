"""The control socket between a command and a running authz: real sockets, real books."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from moneyhelp import ACCOUNT, KEY, charge, draft, fast_engine, limits, mint
from sqlalchemy import Engine, text
from support import ManualClock

import authz.control
import authz.feed
from authz.books import Books, open_books
from authz.cache import KeyCache
from authz.control import AT_ONCE, MAX_ACCOUNTS, Responder, methods, serving
from authz.feed import Feed
from authz.metrics import Metrics
from authz.refusals import Refusals
from authz.settings import AuthzSettings
from store import control
from store.catalog import Catalog
from store.control import MAX_QUESTION_BYTES, SOCKET_NAME, Control, nudge, state_mark
from store.counters.model import Taken
from store.errors import ConfigError, InputError, NotRunningError, StoreUnavailableError
from store.keys import KeyRepository
from store.records import Hold


@dataclass
class Running:
    """What of an authz answers, in this process."""

    settings: AuthzSettings
    engine: Engine
    books: Books
    cache: KeyCache
    control: Control

    def take(self, nanousd: int) -> Hold:
        asked = draft(nanousd)
        taken = self.books.seeded.take(asked.request_id, asked, limits())
        assert isinstance(taken, Taken)
        assert taken.hold is not None
        return taken.hold


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuthzSettings:
    runtime = tmp_path / "run"
    runtime.mkdir(0o700)
    for name in ("STATE", "RUNTIME"):
        monkeypatch.delenv(f"TENSORGATE_{name}", raising=False)
    return AuthzSettings(
        state=tmp_path / "state", runtime=runtime, catalog=tmp_path / "catalog.yaml"
    )


@pytest.fixture
def running(
    tmp_path: Path, settings: AuthzSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    monkeypatch.setattr(authz.feed, "POLL_SECONDS", 3600.0)  # nothing but a question polls
    engine = fast_engine(tmp_path)
    mint(engine, KEY)
    with (
        closing_engine(engine),
        KeyRepository(engine) as repository,
        open_books(settings, lambda: Catalog.read(settings.catalog), Metrics()) as books,
    ):
        clock = ManualClock()
        cache = KeyCache(repository, clock, stale_us=0)
        feed = Feed(repository, cache)
        feed.start()
        clock.advance(us=1)  # what is read from here on is newer than the feed's position
        path = settings.runtime / SOCKET_NAME
        try:
            known = methods(
                books,
                reload=dict,
                try_out=dict,
                catalog=dict,
                feed=feed,
                refusals=Refusals(clock, settings.key_form()),
            )
            with serving(path, Responder(settings.state, known)):
                yield Running(settings, engine, books, cache, Control.of(settings))
        finally:
            feed.stop()


@contextmanager
def closing_engine(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()


def raw(path: Path, question: bytes) -> dict[str, dict[str, str]]:
    with socket.socket(socket.AF_UNIX) as connection, closing(connection.makefile("rb")) as answer:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(question)
        found: dict[str, dict[str, str]] = json.loads(answer.readline())
        return found


def asked(state: Path, method: str, **arguments: object) -> bytes:
    question = {"method": method, "state": state_mark(state), "arguments": arguments}
    return json.dumps(question).encode() + b"\n"


def test_only_its_user_opens_the_socket(running: Running) -> None:
    assert running.control.path.stat().st_mode & 0o777 == 0o600


def test_what_is_counted_is_told(running: Running) -> None:
    assert running.control.ask("counters") == {
        "open_holds": 0,
        "held_nanousd": 0,
        "ends_waiting": 0,
        "ledger_lag_seconds": 0,
        "accounts": 0,
        "drift_nanousd": 0,
        "journaled": True,
    }
    hold = running.take(300)
    told = running.control.ask("counters")
    assert (told["open_holds"], told["held_nanousd"], told["accounts"]) == (1, 300, 1)
    assert running.control.ask("accounts") == [ACCOUNT.id]
    assert running.control.ask("holds") == {hold.id: 300}
    running.books.settler.end(hold, charge(hold, 40))
    end = time.monotonic() + 5
    while running.control.ask("counters")["open_holds"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert running.control.ask("holds") == {}
    told = running.control.ask("drift", accounts=[ACCOUNT.id, "acc_nobody"])
    assert told == {ACCOUNT.id: 0, "acc_nobody": None}
    assert running.control.ask("accounts") == [ACCOUNT.id], "asking after nobody counts nobody"


def test_a_hand_in_the_sums_is_a_drift(running: Running) -> None:
    hold = running.take(300)
    running.books.ledger.book([(hold, charge(hold, 40))])
    running.books.counters.settle(hold, 40)
    with running.engine.connect() as connection, connection.begin():
        connection.execute(text("UPDATE spent SET nanousd = 15"))
    assert running.control.ask("drift", accounts=[ACCOUNT.id]) == {ACCOUNT.id: 25}


def test_feed_makes_a_revocation_hold_at_once(running: Running) -> None:
    [digest] = _digests(running.engine)
    known = running.cache.get((digest,))
    assert known is not None
    with (
        KeyRepository(running.engine) as repository,
        repository.changing("cli:tester", 5) as writer,
    ):
        assert writer.lock_account(ACCOUNT.email) is not None
        writer.change_key(known, replace(known, revoked_us=5), action="key.revoke")
    before = running.cache.get((digest,))
    assert before is not None
    assert before.revoked_us is None, "nobody has told it"
    assert nudge(running.settings)
    after = running.cache.get((digest,))
    assert after is not None
    assert after.revoked_us == 5


def _digests(engine: Engine) -> list[bytes]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT digest FROM keys")).scalars())


def test_a_reload_is_answered_with_what_changed_or_with_every_fault(
    tmp_path: Path, settings: AuthzSettings
) -> None:
    faults = ("line 2: models.x: it is missing", "line 7: plans: nothing is called so here")
    answers: list[dict[str, object] | ConfigError] = [
        {"path": "c", "changes": [], "warnings": []},
        ConfigError("The catalog c cannot be used:", faults),
    ]

    def reload() -> object:
        answer = answers.pop(0)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    settings.state.mkdir()
    known = methods(None, reload=reload, try_out=dict, catalog=dict)  # type: ignore[arg-type]  # nothing else is asked
    with serving(settings.runtime / SOCKET_NAME, Responder(settings.state, known)):
        asker = Control.of(settings)
        assert asker.ask("catalog_reload") == {"path": "c", "changes": [], "warnings": []}
        with pytest.raises(InputError) as caught:
            asker.ask("catalog_reload")
    assert caught.value.code == "config"
    assert all(fault in str(caught.value) for fault in faults)


def test_an_unknown_method_is_a_clear_error(running: Running) -> None:
    with pytest.raises(StoreUnavailableError, match="does not know `shutdown`; it knows counters"):
        running.control.ask("shutdown")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"accounts": "acc_anna"}, {"accounts": [1]}, {"accounts": ["x"] * (MAX_ACCOUNTS + 1)}],
)
def test_arguments_are_read_strictly(running: Running, arguments: dict[str, object]) -> None:
    with pytest.raises(StoreUnavailableError, match="a list of at most 100 account ids"):
        running.control.ask("drift", **arguments)


@pytest.mark.parametrize(
    "question",
    [
        b"\n",
        b"{}\n",
        b"[" * 50_000 + b"\n",
        b"\xff\xfe\n",
        b'{"method": 1, "state": "", "arguments": {}}\n',
        b'{"method": "counters", "state": "1:1", "arguments": []}\n',
        b'{"method": "counters"' + b" " * MAX_QUESTION_BYTES,
    ],
)
def test_what_is_no_question_is_told_so(running: Running, question: bytes) -> None:
    answer = raw(running.control.path, question)
    assert answer["error"]["code"] == "invalid_question"
    assert "result" in raw(running.control.path, asked(running.settings.state, "counters"))


def test_a_method_that_fails_says_what_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("hunter22")

    responder = Responder(tmp_path, {"broken": broken})
    answer = json.loads(responder.answer(asked(tmp_path, "broken")))
    assert answer["error"]["code"] == "internal"
    assert "hunter22" not in answer["error"]["message"]
    assert "hunter22" in caplog.text, "the log has the rest"


def test_an_authz_of_another_state_is_none(running: Running, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(NotRunningError, match=r"No authz serves the state in .*other"):
        Control(running.control.path, other).ask("counters")
    (tmp_path / "link").symlink_to(running.settings.state)
    assert Control(running.control.path, tmp_path / "link").ask("counters")["accounts"] == 0


def test_nobody_there(settings: AuthzSettings) -> None:
    """No state, no socket, a socket that a killed one left: the same answer, and at once."""
    began = time.monotonic()
    assert not nudge(settings)
    settings.state.mkdir()
    with pytest.raises(NotRunningError, match=r"Start the gate"):
        Control.of(settings).ask("counters")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(settings.runtime / SOCKET_NAME))
    left.close()
    with pytest.raises(NotRunningError):
        Control.of(settings).ask("counters")
    assert not nudge(settings)
    assert time.monotonic() - began < 0.5
    with serving(settings.runtime / SOCKET_NAME, Responder(settings.state, {"feed": len})):
        assert nudge(settings), "what was left is replaced"
    assert not (settings.runtime / SOCKET_NAME).exists()


@pytest.mark.parametrize("says", [b"", b'{"result', b"[]", b'{"error": 5}', None])
def test_one_that_does_not_answer_is_waited_for_only_so_long(
    settings: AuthzSettings, says: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "NUDGE_SECONDS", 0.3)
    settings.state.mkdir()
    release = threading.Event()

    def answer() -> None:
        with listener.accept()[0] as connection:
            if says is None:
                release.wait(10)
            else:
                connection.recv(1000)
                connection.sendall(says)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(settings.runtime / SOCKET_NAME))
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="does not answer") as caught:
            Control.of(settings).ask("counters", seconds=0.3)
        assert not isinstance(caught.value, NotRunningError), "it is there"
        assert time.monotonic() - began < 2
        release.set()
        thread.join()


def test_those_who_say_nothing_keep_nobody_out(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authz.control, "QUESTION_SECONDS", 0.5)
    monkeypatch.setattr(authz.control._Handler, "timeout", 0.2)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(2 * AT_ONCE)]
    try:
        for each in silent:
            each.connect(str(running.control.path))
        assert running.control.ask("counters", seconds=5)["accounts"] == 0
    finally:
        for each in silent:
            each.close()


def test_the_runtime_folder_is_the_one_that_up_wrote_down(settings: AuthzSettings) -> None:
    settings.state.mkdir()
    assert control.runtime_folder(settings) == settings.runtime
    (settings.state / "runtime").write_text("/tmp/tensorgate-x1\n")
    assert Control.of(settings).path == Path("/tmp/tensorgate-x1/control.sock")
