"""Names of processes and of their sockets: none is another's, and each fits in a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.settings import _LONGEST_SOCKET
from authz.sockets import CONTROL, HEALTH, LOG, MOST_WORKERS, Place, Role, healths


def test_one_worker_does_all_of_it() -> None:
    (whole,) = Place.all_of(1)
    assert whole == Place()
    assert (whole.name, whole.check, whole.health, whole.control) == (
        "authz",
        "authz-0.sock",
        "health.sock",
        "control.sock",
    )


def test_several_have_a_meter_beside_them() -> None:
    places = Place.all_of(2)
    assert [place.name for place in places] == ["meter", "authz-0", "authz-1"]
    assert [place.role for place in places] == [Role.METER, Role.CHECKS, Role.CHECKS]
    assert healths(Path("/run"), 2) == {
        "meter": Path("/run/health-log.sock"),
        "authz-0": Path("/run/health-0.sock"),
        "authz-1": Path("/run/health-1.sock"),
    }


@pytest.mark.parametrize("workers", [1, 2, MOST_WORKERS])
def test_no_two_processes_share_a_socket(workers: int) -> None:
    places = Place.all_of(workers)
    supervisors = [HEALTH, CONTROL] if workers > 1 else []
    names = [
        *supervisors,
        LOG,
        *(place.check for place in places if place.role is not Role.METER),
        *(name for place in places for name in (place.health, place.control)),
    ]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= len(_LONGEST_SOCKET)
