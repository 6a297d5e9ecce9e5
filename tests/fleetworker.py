"""A worker without a network, as a process of its own, to be killed: takes until then.

Prints the id of each hold that a call would have been let through with, as soon as it is known.
Arguments: state folder, database URL, Redis URL, budget.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from moneyhelp import KEY, draft

from authz.books import open_books
from authz.ids import Ids
from authz.metrics import Metrics
from authz.settings import AuthzSettings
from authz.sockets import Role
from store.catalog import Catalog
from store.counters.model import MoneyLimit, Taken


def main(folder: Path, database_url: str, redis_url: str, budget: int) -> None:
    settings = AuthzSettings(
        state=folder / "state",
        runtime=folder,
        catalog=folder / "catalog.yaml",
        database_url=database_url,
        redis_url=redis_url,
    )
    catalog = Catalog.read(settings.catalog)
    limits = (MoneyLimit(KEY.id, KEY.created_us, budget),)
    new_id = Ids()
    with open_books(settings, lambda: catalog, Metrics(), Role.CHECKS, "killed") as books:
        while True:
            name = new_id()
            took = books.seeded.take(name, draft(1, id=name, request_id=name), limits)
            if isinstance(took, Taken) and took.hold is not None:
                print(took.hold.id, flush=True)
            time.sleep(0.003)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
