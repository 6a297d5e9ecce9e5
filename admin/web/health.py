"""For programs: is it alive, can it do its work, and its metrics."""

from __future__ import annotations

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from admin.web.desk import Access, Page, address_of, desk
from store.errors import StoreError, TensorgateError
from store.upgrades import check_current

_PASSED_ON: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})


def healthz(request: Request) -> Response:
    """This process answers."""
    del request
    return PlainTextResponse("ok\n")


def readyz(request: Request) -> Response:
    """It can do its work: the database answers, at this code's revision; the catalog is read."""
    parts = desk(request)
    try:
        check_current(parts.engine)
        parts.catalog()
    except StoreError:
        return PlainTextResponse("the database does not answer, or is of another revision\n", 503)
    except TensorgateError:
        return PlainTextResponse("the catalog cannot be used\n", 503)
    return PlainTextResponse("ready\n")


def metrics(request: Request) -> Response:
    """As Prometheus reads them; there for whom the settings name, who asks for it directly.

    An ingress is in a network of the cluster's as Prometheus is: what it passes on is public.
    """
    passed_on = not _PASSED_ON.isdisjoint(request.headers)
    if passed_on or not desk(request).settings.may_read_metrics(address_of(request)):
        raise HTTPException(404)
    registry = desk(request).metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


PAGES = (
    Page("GET", "/healthz", healthz, Access.PUBLIC),
    Page("GET", "/readyz", readyz, Access.PUBLIC),
    Page("GET", "/metrics", metrics, Access.PUBLIC),
)
