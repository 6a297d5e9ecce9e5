"""What a journal has open where counting has moved from one process to Redis: SQL gets it.

A process that counted for itself and was killed leaves in its journal what it had admitted in its
last second, and how calls had ended that were not booked yet. Whoever counts for the same state
next, in Redis now, does not read journals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from authz.lease import Lease
from store.journal import JOURNAL_NAME, Journal
from store.ledger import Ledger

_log: Final = logging.getLogger(__name__)


def take_over(state: Path, ledger: Ledger, forget: Callable[[str], None]) -> None:
    """Book what is known to have ended; SQL has the rest as open, and they are swept in time.

    `forget` has an account's counters read SQL anew. Nothing is done while another process counts
    for this state, as the journal is its. Done again, it changes nothing. Raises StoreError.
    """
    path = state / JOURNAL_NAME
    if not path.exists():
        return
    lease = Lease(state)
    if not lease.acquire():
        return
    try:
        with Journal(path) as journal:
            held = {hold.id: hold for hold in journal.found.holds}
            if not held:
                return
            ledger.copy_holds(list(held.values()))
            ended = [(held[end.hold_id], end) for end in journal.found.ends]
            if ended:
                ledger.book(ended)
            for account_id in {hold.account_id for hold in held.values()}:
                forget(account_id)
            journal.done(*held)
            _log.warning(
                "a journal of before had %d open holds, %d of which had ended: they are in SQL now",
                len(held),
                len(ended),
            )
    finally:
        lease.release()
