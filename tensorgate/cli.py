"""The front door: every command of `tensorgate`, and what becomes of a fault.

A command imports what it needs when it runs: `tensorgate keys list` must not wait for grpc.

Exit status: 0 done, 1 a fault that is told in one line, 2 a command line that cannot be read,
130 interrupted. With --json the fault stands on stdout as well, as {"error": {message, code}}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from admin import output
from admin.cli import AsJson, Email, help_when_alone, keys_app, users_app
from admin.ledgercli import ledger_app
from admin.movingcli import import_app
from store import keyformat
from store.errors import ConfigError, InputError, SchemaMismatchError, StoreError

if TYPE_CHECKING:
    from admin.web.desk import Found
    from store.catalog import Catalog
    from store.settings import StoreSettings

FAULT: Final = 1
INTERRUPTED: Final = 130
DEBUG: Final = "TENSORGATE_DEBUG"
RELOAD_SECONDS: Final = 60.0  # a catalog of many thousand models takes a while to read

app = typer.Typer(
    help="API keys in front of any model server.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
db_app = typer.Typer(help="The database.")
catalog_app = typer.Typer(help="Models, prices and plans.")
for group in (db_app, catalog_app):
    group.callback(invoke_without_command=True)(help_when_alone)
app.add_typer(users_app, name="users")
app.add_typer(keys_app, name="keys")
app.add_typer(ledger_app, name="ledger")
app.add_typer(import_app, name="import")
app.add_typer(db_app, name="db")
app.add_typer(catalog_app, name="catalog")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415  see the module's head

        typer.echo(f"tensorgate {version('tensorgate')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def tensorgate(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """API keys in front of any model server."""
    del version  # its callback has answered
    help_when_alone(context)


@app.command()
def up(
    *,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The model server. [default: a demo server]"),
    ] = None,
    upstream_grpc: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where it speaks gRPC. [default: the same address]"),
    ] = None,
    port: Annotated[int, typer.Option(help="Where clients reach the gate.")] = 8080,
    admin_port: Annotated[
        int | None, typer.Option(help="Where the dashboard is. [default: 8081]")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="The state folder. [default: TENSORGATE_STATE, .tensorgate]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that decide; several need Redis, and without TENSORGATE_REDIS_URL a "
            "Valkey is started. [default: TENSORGATE_WORKERS, 1]"
        ),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="IP", help="The address to bind.")] = "127.0.0.1",
    metrics_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where Prometheus reads.")
    ] = None,
) -> int:
    """Run the whole gate on this machine until Ctrl-C."""
    from tensorgate import up as whole  # noqa: PLC0415  see the module's head

    return whole.up(
        upstream=upstream,
        upstream_grpc=upstream_grpc,
        port=port,
        admin_port=admin_port,
        state=state,
        workers=workers,
        listen=listen,
        metrics_listen=metrics_listen,
    )


@app.command()
def authz(
    workers: Annotated[
        int | None,
        typer.Option(
            help="So many processes, and one that meters; several need TENSORGATE_REDIS_URL. "
            "[default: TENSORGATE_WORKERS, 1]"
        ),
    ] = None,
) -> int:
    """Run the service that decides; Envoy asks it. The environment has its settings."""
    from authz.server import main as serve  # noqa: PLC0415  see the module's head
    from store.settings import PREFIX  # noqa: PLC0415  see the module's head

    if workers is not None:
        os.environ[f"{PREFIX}WORKERS"] = str(workers)
    return serve()


@app.command()
def meter() -> int:
    """Run only what meters and settles: `authz --workers` starts one. It needs Redis."""
    from authz.server import main_meter as serve  # noqa: PLC0415  see the module's head

    return serve()


@app.command()
def admin() -> int:
    """Run the dashboard, where people keep their keys. The environment has its settings."""
    from admin.web.server import serve  # noqa: PLC0415  see the module's head

    return serve(_examine)


def _examine() -> Iterable[Found]:
    """What doctor finds; grpc and all that it needs is for whoever asks."""
    from tensorgate.doctor import examine  # noqa: PLC0415  see the module's head

    return examine()


@app.command()
def demo(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The address to bind.")
    ] = "127.0.0.1:8000",
) -> None:
    """Run a model server that infers nothing, to try the gate with."""
    from tensorgate import demo as server  # noqa: PLC0415  see the module's head

    server.demo(listen=listen)


@app.command()
def doctor(as_json: AsJson = False) -> int:
    """Look at each part: what is wrong, and what to do."""
    from tensorgate import doctor as looks  # noqa: PLC0415  see the module's head

    return looks.doctor(as_json=as_json)


@app.command()
def explain(
    request_id: Annotated[
        str, typer.Argument(metavar="ID", help="The x-request-id of a call, or the id of a hold.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say of one call what was decided, held, metered and charged, and why."""
    from admin import explain as one  # noqa: PLC0415  see the module's head

    one.explain(request_id, as_json=as_json)


@app.command()
def share(
    email: Email,
    *,
    budget_usd: Annotated[
        str | None,
        typer.Option(metavar="USD", help="For 30 days. [default: 5, or what the plan allows]"),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where they reach the gate. [default: as `up` wrote it]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Mint a key for somebody and print a message to paste to them."""
    from tensorgate import share as shares  # noqa: PLC0415  see the module's head

    shares.share(email, budget_usd=budget_usd, url=url, as_json=as_json)


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def envoy(context: typer.Context) -> object:
    """Envoy's configuration: `envoy render --help`."""
    from tensorgate.envoy.cli import app as envoy_app  # noqa: PLC0415  see the module's head

    return typer.main.get_command(envoy_app).main(
        args=context.args or ["--help"], prog_name="tensorgate envoy", standalone_mode=False
    )


@db_app.command("upgrade")
def upgrade(as_json: AsJson = False) -> None:
    """Bring the database to the revision that this program needs; make it if there is none."""
    from store import engines, upgrades  # noqa: PLC0415  see the module's head
    from store.settings import StoreSettings, load  # noqa: PLC0415  see the module's head

    engine = engines.open_engine(load(StoreSettings).sql_url)
    try:
        before = upgrades.upgrade(engine)
    finally:
        engine.dispose()
    text = f"The database is at revision {upgrades.HEAD}."
    if before != upgrades.HEAD:
        text = f"The database was brought from {before or 'nothing'} to revision {upgrades.HEAD}."
    output.show(as_json, {"before": before, "revision": upgrades.HEAD}, text)


@catalog_app.command("reload")
def reload(as_json: AsJson = False) -> None:
    """Have the running gate read its catalog again; say what changed, or what is wrong, by line."""
    from store.control import Control  # noqa: PLC0415  see the module's head
    from store.settings import StoreSettings, load  # noqa: PLC0415  see the module's head
    from tensorgate import catalogtext  # noqa: PLC0415  see the module's head

    done = Control.of(load(StoreSettings)).ask("catalog_reload", seconds=RELOAD_SECONDS)
    output.show(as_json, catalogtext.reloaded_json(done), catalogtext.reloaded_text(done))


@catalog_app.command("check")
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]…", help="Say what these cost, and why.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read the catalog and say what is in it, or what is wrong, by line."""
    from authz.endpoints import table_of  # noqa: PLC0415  see the module's head
    from store.catalog import Catalog  # noqa: PLC0415  see the module's head
    from store.settings import StoreSettings, load  # noqa: PLC0415  see the module's head
    from tensorgate import catalogtext  # noqa: PLC0415  see the module's head

    settings = load(StoreSettings)
    catalog = Catalog.read(settings.catalog)
    table_of(catalog)
    lost = _lost_plans(settings, catalog)
    output.show(
        as_json,
        catalogtext.as_json(catalog, lost, names or ()),
        catalogtext.as_text(catalog, settings.catalog, lost, names or ()),
    )


def _lost_plans(settings: StoreSettings, catalog: Catalog) -> dict[str, int] | None:
    """Plans of accounts that the catalog does not name; None where no database can tell."""
    from store import engines, upgrades  # noqa: PLC0415  see the module's head
    from store.keys import KeyRepository  # noqa: PLC0415  see the module's head

    try:
        engine = engines.open_engine(settings.sql_url)
        try:
            upgrades.check_current(engine)
            with KeyRepository(engine) as repository:
                return catalog.lost(repository.plans())
        finally:
            engine.dispose()
    except (ConfigError, StoreError):
        return None


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit status. No exception leaves but SystemExit."""
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 is no reason to fail
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        command = typer.main.get_command(app)
        status = command.main(args=list(arguments), prog_name="tensorgate", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as fault:  # noqa: BLE001  the last line of defence: no trace for a user
        message, code, status = _explain(fault)
        typer.echo(f"error: {message}", err=True)
        if as_json:
            typer.echo(json.dumps({"error": {"message": message, "code": code}}))
    return status if isinstance(status, int) else 0


def _explain(fault: Exception) -> tuple[str, str, int]:
    """What to say of a fault, its code, and the exit status."""
    match fault:
        case typer.TyperException():
            context = getattr(fault, "ctx", None)
            see = "" if context is None else f" See `{context.command_path} --help`."
            said = keyformat.without_keys(fault.format_message())
            return f"{said.rstrip('.')}.{see}", "usage", fault.exit_code
        case InputError():
            return str(fault), fault.code, FAULT
        case SchemaMismatchError():
            return str(fault), "schema_mismatch", FAULT
        case StoreError():
            return str(fault), "store_unavailable", FAULT
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(fault)
    kind = type(fault).__name__
    return f"internal error: {kind}; set {DEBUG}=1 to see more.", "internal", FAULT
