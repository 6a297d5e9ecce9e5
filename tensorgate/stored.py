"""What `tensorgate doctor` finds in the database, asked once.

That is its revision and times, the peppers and plans that what is in it needs, and which gates use
it: a gate may be on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from store import engines, schema, upgrades
from store.catalog import Catalog
from store.clock import wall_us
from store.errors import ConfigError, StoreError, TensorgateError
from store.keys import KeyRepository
from store.records import MINUTE_US, SECOND_US
from store.replicas import Replicas
from store.settings import PREFIX, StoreSettings
from tensorgate.finding import Finding, Status


@dataclass(frozen=True, slots=True)
class Stored:
    """`gates` are the names of processes that check calls on a database that others may share."""

    findings: tuple[Finding, ...]
    gates: tuple[str, ...] = ()


def look(settings: StoreSettings) -> Stored:
    """Look at the settings' database."""
    try:
        engine = engines.open_engine(settings.sql_url)
    except ConfigError as fault:
        text = "; ".join(fault.faults)
        return Stored((Finding("database", Status.FAIL, text, f"set {PREFIX}DATABASE_URL"),))
    try:
        findings = tuple(_findings(settings, engine))
        return Stored(findings, () if settings.database_url is None else _gates(engine))
    finally:
        engine.dispose()


def _gates(engine: Engine) -> tuple[str, ...]:
    try:
        return tuple(each.name for each in Replicas(engine).live() if each.kind == "authz")
    except StoreError:
        return ()  # it was told


def _findings(settings: StoreSettings, engine: Engine) -> Iterator[Finding]:
    try:
        upgrades.check_current(engine)
        repository = KeyRepository(engine)
        people = repository.accounts(wall_us())
        yield _database(engine, len(people), sum(live for _, live in people))
        yield _pepper(settings, repository)
        yield from _plans(settings, repository)
    except ConfigError as fault:
        yield Finding("pepper", Status.FAIL, "; ".join(fault.faults), f"set {PREFIX}PEPPER_FILE")
    except TensorgateError as fault:
        text, _, advice = str(fault).partition(". ")
        advice = advice[:1].lower() + advice[1:].rstrip(".")
        yield Finding("database", Status.FAIL, text, advice)


def _database(engine: Engine, accounts: int, live: int) -> Finding:
    with engines.driver_errors(), engine.connect() as connection:
        newest = connection.execute(select(func.max(schema.audit.c.at_us))).scalar() or 0
    at = f"{engine.dialect.name} at revision {upgrades.HEAD}"
    text = f"{at}: {accounts} accounts, {live} live keys"
    if newest > wall_us() + MINUTE_US:
        return Finding(
            "database",
            Status.FAIL,
            f"{text}; its newest entry is {(newest - wall_us()) // SECOND_US} s in the future",
            "set the clock (NTP): expiry and budgets go by it",
        )
    return Finding("database", Status.OK, text)


def _pepper(settings: StoreSettings, repository: KeyRepository) -> Finding:
    have = settings.digester().versions()
    used = repository.pepper_versions_in_use(wall_us())
    missing = sorted(used - set(have))
    if missing:
        names = ", ".join(str(version) for version in missing)
        return Finding(
            "pepper",
            Status.FAIL,
            f"live keys need version {names}, and {PREFIX}PEPPER_FILE does not hold it",
            "put it back, or mint those keys anew",
        )
    if have[0] == 0:
        return Finding("pepper", Status.OK, "none: digests are plain SHA-256 of 256-bit keys")
    live = ", ".join(map(str, sorted(used, reverse=True)))
    text = f"version {have[0]} for new keys; live keys use {live or 'none yet'}"
    idle = [str(version) for version in have[1:] if version and version not in used]
    text += f"; none needs {', '.join(idle)} any more" if idle else ""
    return Finding("pepper", Status.OK, text)


def _plans(settings: StoreSettings, repository: KeyRepository) -> Iterator[Finding]:
    """Plans that accounts are on and the catalog does not name; nothing where there is none."""
    try:
        lost = Catalog.read(settings.catalog).lost(repository.plans())
    except ConfigError:
        return  # it was told
    if lost:
        names = ", ".join(f"{name} ({number} accounts)" for name, number in sorted(lost.items()))
        yield Finding(
            "plans",
            Status.WARN,
            f"not in the catalog, so held to the default plan's account budget or to $0: {names}",
            "name them there, or choose others: `tensorgate users set-plan EMAIL PLAN`",
        )
