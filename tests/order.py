"""In which order files of tests are handed to the workers: what takes longest is begun first.

A file is one worker's whole. One that takes a minute and comes last keeps one worker busy while
the others have nothing left; and what has to be installed first is so beside other work. The pods
come when the image has long been built, and wait for nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).resolve().parent
ROOMS: Final = ("e2e", "contract", "peers", "load", "unit")
SLOWEST: Final = (
    *("e2e/test_image.py", "e2e/test_kserve.py", "e2e/test_dashboard_pages.py"),
    *("contract/test_manifests.py", "contract/test_form_readers.py", "e2e/test_up.py"),
    *("e2e/test_money_book.py", "e2e/test_workers.py", "e2e/test_fleet_seen.py"),
    *("e2e/test_restore.py", "e2e/test_ledger.py", "e2e/test_fleet_revocation.py"),
    *("e2e/test_gate.py", "e2e/test_pod.py", "e2e/test_catalog_turns.py"),
    *("contract/test_moving.py", "contract/test_json_readers.py"),
    *("e2e/test_books_of_a_gate.py", "contract/test_ledger_cli.py", "e2e/test_money_soak.py"),
    *("e2e/test_sdks.py", "contract/test_alerts.py", "e2e/test_no_key_is_written.py"),
    *("contract/test_cli.py", "e2e/test_refusals.py", "e2e/test_money_ends.py"),
    *("e2e/test_llama_routes.py", "contract/test_admin_service.py", "contract/test_books_cli.py"),
    *("contract/test_money_machine.py", "contract/test_dashboard_attacks.py"),
    *("contract/test_dashboard_oidc.py", "e2e/test_moving_in.py", "contract/test_ledger_rows.py"),
    *("contract/test_row_lease.py", "contract/test_books_damaged.py", "contract/test_books.py"),
    *("contract/test_signing_in.py", "contract/test_fleet.py", "contract/test_push.py"),
    *("contract/test_fleet_outages.py", "e2e/test_browser_cors.py", "contract/test_counters.py"),
)
_PLACES: Final = {TESTS / name: place for place, name in enumerate(SLOWEST)}


def slowest_first(items: list[pytest.Item]) -> None:
    """Sort tests: files by how long they take, whole rooms by that too; no file in itself."""
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> Sequence[int]:
    room = path.relative_to(TESTS).parts[0]
    return _PLACES.get(path, len(_PLACES)), ROOMS.index(room)
