"""`tensorgate envoy render`: Envoy's configuration for other addresses than the default ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from authz.endpoints import table_of
from store.catalog import DEFAULT_UPSTREAM, Catalog
from store.errors import ConfigError, InputError
from store.settings import PREFIX, StoreSettings, load, split_names
from tensorgate.drain import drain
from tensorgate.envoy import scripts
from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render

app = typer.Typer(
    help="Envoy's configuration.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_DEFAULTS: Final = RenderOptions()

Runtime = Annotated[
    Path, typer.Option(envvar=f"{PREFIX}RUNTIME", help="The folder of the sockets.")
]
AdminSocket = Annotated[
    Path | None,
    typer.Option(help="Envoy's own admin socket. [default: envoy-admin.sock beside the others]"),
]


@app.callback()
def _envoy() -> None:
    """Envoy's configuration."""


@app.command("render")
def render_command(
    *,
    upstream: Annotated[
        str,
        typer.Option(
            envvar=f"{PREFIX}UPSTREAM",
            metavar="HOST:PORT",
            help="The model server; https://HOST[:PORT] speaks TLS to it.",
        ),
    ] = _DEFAULTS.upstream,
    upstream_grpc: Annotated[
        str | None,
        typer.Option(
            envvar=f"{PREFIX}UPSTREAM_GRPC",
            metavar="HOST:PORT",
            help="Where the model server speaks gRPC. [default: the same address]",
        ),
    ] = _DEFAULTS.upstream_grpc,
    upstream_health: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The model server answers 200 there while it is well. "
            "[default: it is well while it takes connections]",
        ),
    ] = None,
    upstream_credential_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="A file with the bearer token that the model server itself wants; NAME is one of "
            "the catalog's upstreams. Envoy reads it, no configuration has it.",
        ),
    ] = None,
    upstream_ca_file: Annotated[
        Path, typer.Option(help="Who may sign for a model server that speaks TLS.")
    ] = _DEFAULTS.upstream_ca_file,
    catalog: Annotated[
        Path | None,
        typer.Option(
            help="Names several model servers, and which model is on which. "
            f"[default: {PREFIX}CATALOG, or catalog.yaml where there is one]"
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option(envvar=f"{PREFIX}LISTEN", metavar="IP", help="The address to bind.")
    ] = _DEFAULTS.listen,
    port: Annotated[int, typer.Option(help="Where clients reach the gate.")] = _DEFAULTS.port,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain in PEM: clients then speak TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, in PEM.")] = None,
    tls_sds: Annotated[
        Path | None,
        typer.Option(
            help="Instead of both: a file that names them as Envoy's secret `gate`, and is watched."
        ),
    ] = None,
    cors_origins: Annotated[
        str,
        typer.Option(
            envvar=f"{PREFIX}CORS_ORIGINS",
            help="Pages that may call: `*`, origins separated by commas, or `none`.",
        ),
    ] = "*",
    runtime: Runtime = _DEFAULTS.runtime,
    admin_socket: AdminSocket = None,
    ops_listen: Annotated[
        str | None,
        typer.Option(
            metavar="IP:PORT",
            help="Where probes and Prometheus see Envoy: /ready, /stats/prometheus, and "
            "/upstreams/NAME where it has a health path. For nobody else. [default: nowhere]",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(envvar=f"{PREFIX}WORKERS", help="Processes that decide.")
    ] = _DEFAULTS.workers,
    concurrency: Annotated[
        int, typer.Option(help="Envoy's worker threads; start it with the same number.")
    ] = _DEFAULTS.concurrency,
    body_limit_mib: Annotated[
        int, typer.Option(envvar=f"{PREFIX}BODY_LIMIT_MIB", help="The longest prompt.")
    ] = _DEFAULTS.body_limit_mib,
    heap_mib: Annotated[
        int, typer.Option(help="The most memory that Envoy may use.")
    ] = _DEFAULTS.heap_mib,
    max_connections: Annotated[
        int, typer.Option(help="Clients' connections at once.")
    ] = _DEFAULTS.max_connections,
    max_streams: Annotated[
        int, typer.Option(help="Requests at once on one HTTP/2 connection.")
    ] = _DEFAULTS.max_streams,
    request_seconds: Annotated[
        int, typer.Option(help="The longest that sending one request may take.")
    ] = _DEFAULTS.request_seconds,
    idle_seconds: Annotated[
        int,
        typer.Option(envvar=f"{PREFIX}IDLE_SECONDS", help="The longest silence within one answer."),
    ] = _DEFAULTS.idle_seconds,
    stream_seconds: Annotated[
        int,
        typer.Option(
            envvar=f"{PREFIX}STREAM_SECONDS", help="The longest that one call may take in all."
        ),
    ] = _DEFAULTS.stream_seconds,
    heartbeat_seconds: Annotated[
        float,
        typer.Option(
            envvar=f"{PREFIX}HEARTBEAT_SECONDS",
            help="How often the service hears of a call that still runs.",
        ),
    ] = _DEFAULTS.heartbeat_seconds,
    tracing: Annotated[
        str | None,
        typer.Option(
            envvar=f"{PREFIX}TRACING",
            metavar="HOST:PORT",
            help="Who takes Envoy's spans, by OTLP over gRPC. [default: nobody]",
        ),
    ] = _DEFAULTS.tracing,
    output: Annotated[
        Path | None, typer.Option(help="Write it there. [default: standard output]")
    ] = None,
) -> None:
    """Print Envoy's configuration: for this model server, these ports, limits and certificates.

    Start it with: envoy -c FILE --concurrency N --disable-hot-restart
    """
    settings = load(StoreSettings)
    known = _catalog(catalog, settings)
    options = RenderOptions(
        upstream=upstream,
        upstream_grpc=upstream_grpc,
        upstream_health=upstream_health,
        upstreams=known.upstreams if known else {},
        endpoints=table_of(known).rows if known else _DEFAULTS.endpoints,
        credential_files=_credential_files(upstream_credential_file or []),
        upstream_ca_file=upstream_ca_file.absolute(),
        listen=listen,
        port=port,
        tls_cert=_absolute(tls_cert),
        tls_key=_absolute(tls_key),
        tls_sds=_absolute(tls_sds),
        cors_origins=_origins(cors_origins),
        runtime=runtime.absolute(),
        admin_socket=_absolute(admin_socket),
        ops_listen=ops_listen,
        workers=workers,
        concurrency=concurrency,
        key_form=settings.key_form(),
        body_limit_mib=body_limit_mib,
        heap_mib=heap_mib,
        max_connections=max_connections,
        max_streams=max_streams,
        request_seconds=request_seconds,
        idle_seconds=idle_seconds,
        stream_seconds=stream_seconds,
        heartbeat_seconds=heartbeat_seconds,
        tracing=tracing,
    )
    _put(render(options), output)


@app.command("script")
def script_command() -> None:
    """Print the Lua that meters answers and bounds requests, for an Envoy that is not ours."""
    typer.echo(scripts.inference(), nl=False)


@app.command("drain")
def drain_command(
    *,
    runtime: Runtime = _DEFAULTS.runtime,
    admin_socket: AdminSocket = None,
    seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="Wait at most so long for what is in flight.")
    ] = 25,
    settle_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            help="Before that, go on as ever, while balancers learn that this one leaves.",
        ),
    ] = 0,
) -> int:
    """Have Envoy take no new connections, and wait until what is in flight has ended.

    Do it before stopping Envoy or the service, so that no call and no log entry is lost.
    """
    time.sleep(settle_seconds)
    socket = (admin_socket or runtime / "envoy-admin.sock").absolute()
    left = drain(socket, seconds=seconds)
    if left is None:
        raise InputError(
            f"No Envoy answers on {socket}. Name its socket with --admin-socket.", code="no_envoy"
        )
    typer.echo(f"drained; {left} in flight were not waited for" if left else "drained")
    return int(left > 0)


def _put(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as fault:
        why = fault.strerror or "it cannot be written"
        raise ConfigError("The configuration was not written:", (f"{output}: {why}",)) from None


def _catalog(named: Path | None, settings: StoreSettings) -> Catalog | None:
    """The catalog that was named, else the settings'; None where the default one is missing."""
    if (
        named is None
        and "catalog" not in settings.model_fields_set
        and not settings.catalog.exists()
    ):
        return None
    return Catalog.read(named or settings.catalog)


def _credential_files(given: list[str]) -> dict[str, Path]:
    """`FILE` is the default upstream's, `NAME=FILE` another's."""
    files = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or "/" in name:
            name, path = DEFAULT_UPSTREAM, text
        files[name] = Path(path).absolute()
    return files


def _origins(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    split = split_names(text)
    return split if isinstance(split, tuple) else ()


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
