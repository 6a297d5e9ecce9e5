"""Every page there is. What is not `Access.PUBLIC` needs somebody to be signed in.

The static files (no secret in them) are the one thing that is served and is not in here.
"""

from __future__ import annotations

from typing import Final

from admin.web import account, health, identities, keys, people, reports, signin, usage
from admin.web.desk import Page

PAGES: Final[tuple[Page, ...]] = (
    *health.PAGES,
    *signin.PAGES,
    *identities.PAGES,
    *keys.PAGES,
    *usage.PAGES,
    *account.PAGES,
    *people.PAGES,
    *reports.PAGES,
)
