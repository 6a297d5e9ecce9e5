"""How fast passwords can be guessed: by account and by address, counted in the database.

An account: 10 attempts at once, then one a minute, whoever makes them: 1,450 guesses in a day. An
address: 30 at once, then one in 10 s. What it trades: whoever keeps on guessing keeps the owner
from signing in by password meanwhile; those who are signed in stay so.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Final

from store.records import MINUTE_US, SECOND_US
from store.sessions import Bucket

ACCOUNT_BURST: Final = 10
ACCOUNT_EVERY_US: Final = MINUTE_US
ADDRESS_BURST: Final = 30
ADDRESS_EVERY_US: Final = 10 * SECOND_US


def buckets_of(email: str, address: str) -> tuple[Bucket, Bucket]:
    """What an attempt counts in. An e-mail that is no account's counts just so."""
    account = hashlib.sha256(email.encode("utf-8", "replace")).hexdigest()
    return (
        Bucket(f"account:{account}", ACCOUNT_BURST, ACCOUNT_EVERY_US),
        address_bucket(address),
    )


def address_bucket(address: str) -> Bucket:
    """What whoever comes from an address counts in."""
    return Bucket(f"address:{network_of(address)}", ADDRESS_BURST, ADDRESS_EVERY_US)


def network_of(address: str) -> str:
    """The address, of IPv6 its /64: that much is one customer's; `other` for what is none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "other"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
