"""`tensorgate doctor`: one line for each part, and what to do about it.

Looks from outside and changes nothing. What depends on a part that failed is not looked at, so
each fault is told once.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from authz.endpoints import table_of
from authz.health import serving as is_serving
from authz.settings import AuthzSettings
from authz.sockets import HEALTH, LOG, Place, Role, healths
from store.catalog import Catalog
from store.clock import wall_us
from store.control import Control
from store.errors import ConfigError, InputError, JournalDamagedError, StoreError
from store.journal import JOURNAL_NAME
from store.journal import read as read_journal
from store.records import SECOND_US
from store.settings import PREFIX, StoreSettings, load
from store.text import usd
from tensorgate import ports, stored, valkey, vitals
from tensorgate.beside import Beside, findings, look
from tensorgate.binaries import envoy_path
from tensorgate.finding import Finding, Status
from tensorgate.ports import Address, parse_address
from tensorgate.preflight import UpSettings
from tensorgate.statefolder import PRIVATE, StateFolder
from tensorgate.upstream import ProbeThread, Silent

START: Final = "start the gate: `make run` or `tensorgate up`"
METER: Final = Place(Role.METER).name
MOUNTS: Final = Path("/proc/self/mountinfo")
LEAST_FREE_BYTES: Final = 200 * 1024 * 1024
MOST_LAG_SECONDS: Final = 5.0  # a row is in SQL within one second while SQL answers
ENVOY_VERSION_SECONDS: Final = 10.0
# Nothing of this code was written before: a clock that says so is unset.
EARLIEST_US: Final = 1_767_225_600 * SECOND_US  # 2026-01-01


def doctor(*, as_json: bool = False) -> int:
    """Look at every part and print what was found; 1 if anything failed, else 0."""
    found = list(examine())
    if as_json:
        print(json.dumps({"parts": [asdict(each) for each in found]}, ensure_ascii=False))  # noqa: T201 -- the result
    else:
        for each in found:
            print(each)  # noqa: T201 -- the result
    return int(any(each.status is Status.FAIL for each in found))


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which the parts depend on each other."""
    finding, settings, authz = _settings()
    beside = look(authz.runtime) if authz else None
    yield _python()
    yield _envoy_binary(beside)
    yield finding
    yield _clock()
    if settings is None or authz is None:
        return
    state = StateFolder(settings.state.absolute())
    yield _state(state)
    yield _catalog(settings)
    gates: Sequence[str] = ()
    if settings.database_url is not None or state.path.exists():
        kept = stored.look(settings)
        yield from kept.findings
        gates = kept.gates
    if state.path.exists():
        yield _journal(state.path / JOURNAL_NAME)
    yield from _running(state, authz, beside, gates)


def _python() -> Finding:
    version = ".".join(str(number) for number in sys.version_info[:3])
    return Finding("python", Status.OK, f"{version} at {sys.executable}")


def _envoy_binary(beside: Beside | None) -> Finding:
    try:
        binary = envoy_path()
    except InputError as fault:
        if beside is not None:
            return Finding("envoy", Status.OK, f"{beside.version}, not of this container")
        return Finding("envoy", Status.WARN, str(fault))
    reinstall = "reinstall what requirements.lock names: `make clean run`"
    try:
        asked = subprocess.run(  # noqa: S603 -- our own package's binary
            [binary, "--version"],
            capture_output=True,
            text=True,
            timeout=ENVOY_VERSION_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as fault:
        return Finding("envoy", Status.FAIL, f"{binary} does not run ({fault})", reinstall)
    # it says: envoy  version: HASH/1.40.0/Clean/RELEASE/BoringSSL
    fields = asked.stdout.partition("version:")[2].split("/")
    return Finding("envoy", Status.OK, f"{fields[1] if len(fields) > 1 else 'unknown'} at {binary}")


def _settings() -> tuple[Finding, StoreSettings | None, AuthzSettings | None]:
    try:
        settings, authz = load(StoreSettings), load(UpSettings)
    except ConfigError as fault:
        text = "; ".join(fault.faults)
        return Finding("settings", Status.FAIL, text, "mend the environment"), None, None
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    text = f"from the environment: {', '.join(given)}" if given else "defaults"
    return Finding("settings", Status.OK, text), settings, authz


def _clock() -> Finding:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if wall_us() < EARLIEST_US:
        return Finding("clock", Status.FAIL, f"{now} is in the past", "set the clock (NTP)")
    return Finding("clock", Status.OK, now)


def _state(state: StateFolder) -> Finding:
    path = state.path
    try:
        seen = path.stat()
    except OSError as fault:
        why = f"{path}: {(fault.strerror or '').lower()}"
        advice = f"{START}, or name the folder in {PREFIX}STATE"
        return Finding("state", Status.FAIL, why, advice)
    mode = stat.S_IMODE(seen.st_mode)
    volume = seen.st_uid != os.geteuid() and _is_mounted(path)
    if mode & 0o077 and not volume:
        advice = f"chmod {PRIVATE:o} {path}"
        return Finding("state", Status.FAIL, f"{path} is open to others (mode {mode:o})", advice)
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding("state", Status.FAIL, f"{path} is not writable", "run as its owner")
    free = shutil.disk_usage(path).free
    if free < LEAST_FREE_BYTES:
        text = f"{path}: {free // 1_000_000} MB free on its disk"
        return Finding("state", Status.WARN, text, "make room: what is charged is written there")
    what = "a volume, " if volume else ""
    text = f"{path} ({what}mode {mode:o}, {free // 1_000_000_000} GB free)"
    return Finding("state", Status.OK, text)


def _is_mounted(path: Path) -> bool:
    """Whether somebody put a volume there, whose owner and mode are then theirs to choose."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.split(" ")[4:5] == [str(path)] for line in mounts.splitlines())


def _catalog(settings: StoreSettings) -> Finding:
    try:
        catalog = Catalog.read(settings.catalog)
        table_of(catalog)
    except ConfigError as fault:
        return Finding(
            "catalog", Status.FAIL, "; ".join(fault.faults), f"mend it, or name it: {PREFIX}CATALOG"
        )
    rest = "the rest has a default price" if catalog.default else "no default: the rest is refused"
    text = f"{settings.catalog}: {len(catalog.models)} models, {len(catalog.plans)} plans; {rest}"
    if not catalog.models and not catalog.default:
        return Finding(
            "catalog", Status.WARN, text, "name models, or keys with a budget reach none"
        )
    return Finding("catalog", Status.OK, text)


def _journal(path: Path) -> Finding:
    """What calls were admitted and not yet booked, as a crash would leave it."""
    try:
        found = read_journal(path.read_bytes(), path)
    except FileNotFoundError:
        return Finding(
            "journal", Status.OK, "none yet: no call was counted in one process on this state"
        )
    except OSError as fault:
        text = f"{path} cannot be read ({fault.strerror})"
        return Finding("journal", Status.FAIL, text, "run as its owner")
    except JournalDamagedError as fault:
        text, _, advice = str(fault).partition(". ")
        return Finding("journal", Status.FAIL, text, advice[:1].lower() + advice[1:].rstrip("."))
    text = f"{path}: {len(found.holds)} open holds, {len(found.ends)} of them to be booked"
    return Finding("journal", Status.OK, text)


def _running(
    state: StateFolder, settings: AuthzSettings, beside: Beside | None, gates: Sequence[str]
) -> Iterator[Finding]:
    """The processes, as the last `up` described them, else as the settings do.

    With `gates` elsewhere none need be here: in a dashboard's pod, say.
    """
    about = state.running() if state.is_locked() else {}
    runtime = Path(state.read("runtime") or settings.runtime)
    workers = about.get("workers") or settings.workers
    counters = list(_redis(settings, runtime, workers))
    yield from counters
    authz = _authz(runtime, state)
    if gates and authz.status is Status.FAIL and beside is None and not about:
        text = f"none here; {len(gates)} elsewhere use this database: {', '.join(gates)}"
        yield Finding("authz", Status.OK, text)
        return
    yield authz
    if authz.status is not Status.FAIL:
        yield from _processes(runtime, state, workers)
    if authz.status is Status.OK and all(each.status is Status.OK for each in counters):
        yield _ledger(Control.of(settings))
    if beside is not None and not about:
        yield from findings(beside)
    else:
        yield _gate(_known(about.get("local")), state)
        upstream = _known(about.get("upstream") or os.environ.get(f"{PREFIX}UPSTREAM"))
        yield _upstream(ProbeThread.asking(upstream))
    yield from _catalogs_upstreams(settings)
    yield _metrics(_known(about.get("metrics") or settings.metrics_listen))
    if "admin" in about:
        yield _dashboard(_known(about["admin"]), state)


def _authz(runtime: Path, state: StateFolder) -> Finding:
    health = runtime / HEALTH
    match is_serving(health):
        case True:
            return Finding("authz", Status.OK, f"serving ({health})")
        case False:
            return Finding(
                "authz",
                Status.FAIL,
                "answers, but does not take calls",
                f"its log says why: {state.logs / 'authz.log'}",
            )
        case _:
            return Finding("authz", Status.FAIL, f"not running (nobody at {health})", START)


def _processes(runtime: Path, state: StateFolder, workers: int) -> Iterator[Finding]:
    """The workers and the meter, where there are several; their supervisor was looked at."""
    if workers == 1:
        return
    log = f"its log says why: {state.logs / 'authz.log'}"
    well = {name: is_serving(path) for name, path in healths(runtime, workers).items()}
    away = [name for name, serves in well.items() if not serves and name != METER]
    text = f"{workers - len(away)} of {workers} serving"
    if away:
        status = Status.WARN if len(away) < workers else Status.FAIL
        yield Finding("workers", status, f"{text}; not {', '.join(away)}", log)
    else:
        yield Finding("workers", Status.OK, text)
    if well[METER]:
        yield Finding("meter", Status.OK, f"reads what Envoy logs ({runtime / LOG})")
    else:
        text = "not running: calls go on, and what they cost waits"
        yield Finding("meter", Status.FAIL, text, log)


def _redis(settings: AuthzSettings, runtime: Path, workers: int) -> Iterator[Finding]:
    """What several workers count in; nothing is told of its address, which may have a password."""
    ours = settings.redis_url is None
    if ours and workers == 1:
        return
    why = valkey.fault(settings.redis_url or valkey.url(runtime))
    whose = f"the gate's own ({runtime / valkey.SOCKET_NAME})" if ours else f"{PREFIX}REDIS_URL"
    if why is None:
        yield Finding("redis", Status.OK, f"answers: {whose}")
    else:
        advice = START if ours else f"start it, or mend {PREFIX}REDIS_URL"
        yield Finding("redis", Status.FAIL, f"{whose}: {why}", advice)


def _ledger(control: Control) -> Finding:
    """Open holds, and whether counters and rows keep up with each other, as authz says."""
    try:
        said = control.ask("counters", seconds=vitals.SECONDS)
        opened, held, waiting = (
            int(said[name]) for name in ("open_holds", "held_nanousd", "ends_waiting")
        )
        lag, drift = float(said["ledger_lag_seconds"]), int(said["drift_nanousd"])
    except (StoreError, LookupError, TypeError, ValueError) as fault:
        text = str(fault) if isinstance(fault, StoreError) else "authz is of another version"
        return Finding("ledger", Status.FAIL, text.partition(". ")[0], "restart the gate")
    text = f"{opened} open holds ({usd(held)}), {waiting} ends to be booked"
    if drift:
        text += f"; counters are off by {usd(drift)}"
        return Finding("ledger", Status.FAIL, text, "`tensorgate ledger verify` names the accounts")
    if lag > MOST_LAG_SECONDS:
        text += f", the oldest for {lag:.0f} s"
        return Finding("ledger", Status.WARN, text, "authz's log says why: is the disk full?")
    return Finding("ledger", Status.OK, f"{text}; counters agree")


def _gate(gate: Address | None, state: StateFolder) -> Finding:
    if gate is None:
        return Finding("gate", Status.FAIL, "Envoy is not running on this state", START)
    answer = vitals.http_status(gate, "GET", "/healthz")
    if answer is None:
        advice = f"see {state.logs / 'envoy.log'}"
        return Finding("gate", Status.FAIL, f"Envoy does not answer at {gate}", advice)
    if answer[0] != vitals.OK:
        advice = "see who listens there"
        return Finding("gate", Status.FAIL, f"{gate}/healthz answers {answer[0]}", advice)
    return Finding("gate", Status.OK, f"Envoy answers at {state.read('url') or gate}")


def _upstream(probe: ProbeThread | None, part: str = "upstream") -> Finding:
    if probe is None:
        advice = f"set {PREFIX}UPSTREAM=host:port to have it looked at"
        return Finding(part, Status.WARN, "not known here", advice)
    found = probe.answer()
    if isinstance(found, Silent):
        return Finding(part, Status.FAIL, str(found), "start the model server")
    if found.wants_credential:
        return Finding(part, Status.WARN, str(found))
    if not found.models:
        return Finding(part, Status.WARN, str(found), "name its models in the catalog")
    return Finding(part, Status.OK, str(found))


def _catalogs_upstreams(settings: AuthzSettings) -> Iterator[Finding]:
    """Those beside the default one; all are asked at once. A catalog with faults was told of."""
    try:
        upstreams = Catalog.read(settings.catalog).upstreams
    except ConfigError:
        return
    asked = [(name, ProbeThread.asking(_known(each.address))) for name, each in upstreams.items()]
    for name, probe in asked:
        yield _upstream(probe, f"upstream {name}")


def _metrics(address: Address | None) -> Finding:
    answer = vitals.http_status(address, "GET", "/metrics") if address else None
    if answer is None or answer[0] != vitals.OK:
        return Finding("metrics", Status.FAIL, f"nothing answers at {address}/metrics", START)
    return Finding("metrics", Status.OK, f"http://{address}/metrics")


def _dashboard(address: Address | None, state: StateFolder) -> Finding:
    here = address and Address(ports.reach(address.host), address.port)
    answer = vitals.http_status(here, "GET", "/readyz") if here else None
    advice = f"see {state.logs / 'admin.log'}"
    if answer is None:
        text = f"nothing answers at {address}; keys go on working"
        return Finding("dashboard", Status.FAIL, text, advice)
    if answer[0] != vitals.OK:
        text = f"{address}/readyz answers {answer[0]}; keys go on working"
        return Finding("dashboard", Status.FAIL, text, advice)
    return Finding("dashboard", Status.OK, f"answers at {address}")


def _known(text: object) -> Address | None:
    try:
        return parse_address(text) if isinstance(text, str) else None
    except ValueError:
        return None
