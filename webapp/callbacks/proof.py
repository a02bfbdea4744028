"""Proves to `esms-calls doctor` that a CallbackUrl reaches a receiver of this very database, and how it got there.

Doctor sends a HEAD request with a challenge to the CallbackUrl. It stores nothing, and is answered 405 as every HEAD
with a right token is; a digest comes with it. Who does not know token and database learns nothing from the digest. With
a wrong token there is none: the answer is the 404 that everybody gets.
"""

from __future__ import annotations

import hmac
import itertools
import re
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from flask import current_app, request

from webapp.storage.database_identity import identity
from webapp.storage.errors import Unavailable

if TYPE_CHECKING:
    from flask import Blueprint, Response

    from webapp.storage.database import Database

CHALLENGE = "X-Esms-Calls-Challenge"
PROOF = "X-Esms-Calls-Proof"
NO_PROOF = "no database"
"""Instead of a proof: the receiver cannot use its database now."""
MOST_HOPS = 10
"""Of TRUSTED_PROXIES; more hops are not distinguished."""
_CHALLENGE = re.compile(r"[0-9a-f]{32}")


class Arrival(NamedTuple):
    """How a request came to the receiver.

    ``hops``: addresses that proxies put into X-Forwarded-For. ``trusted``: the receiver's TRUSTED_PROXIES. ``scheme``:
    http or https, as the receiver sees it.
    """

    hops: int
    trusted: int
    scheme: str


def sent_from(challenge: str) -> str:
    """The address that doctor claims to come from, out of those for documentation; proxies put theirs behind it."""
    return f"2001:db8::{challenge[:4]}:{challenge[4:8]}:{challenge[8:12]}"


def digest(token: str, database: str, challenge: str, arrival: Arrival) -> str:
    """What a receiver with this token and this database answers to the challenge."""
    key = f"{token} {database}".encode()
    return hmac.new(key, f"{challenge} {arrival.hops} {arrival.trusted} {arrival.scheme}".encode(), sha256).hexdigest()


def arrival_proved(proof: str, token: str, database: str, challenge: str) -> Arrival | None:
    """How the request came, by its proof; None: no receiver of this database has made the proof."""
    counts = range(MOST_HOPS + 1)
    arrivals = itertools.starmap(Arrival, itertools.product(counts, counts, ("http", "https")))
    for arrival in arrivals:
        if hmac.compare_digest(proof, digest(token, database, challenge, arrival)):
            return arrival
    return None


def init_routes(callbacks: Blueprint, database: Database) -> None:
    """Give the proof to a request with a challenge and a right token that stores nothing."""

    @callbacks.after_request
    def prove(response: Response) -> Response:
        challenge = request.headers.get(CHALLENGE, "")
        # Only a right token is answered 405.
        if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED and _CHALLENGE.fullmatch(challenge):
            arrival = Arrival(_hops(challenge), current_app.config["TRUSTED_PROXIES"], request.scheme)
            token = str((request.view_args or {})["token"])
            try:
                response.headers[PROOF] = digest(token, identity(database), challenge, arrival)
            except Unavailable:
                response.headers[PROOF] = NO_PROOF
        return response


def _hops(challenge: str) -> int:
    """How many addresses proxies have added, or put in the place of the one that doctor sent."""
    addresses = [part.strip().strip("[]") for part in ",".join(request.headers.getlist("X-Forwarded-For")).split(",")]
    claimed = sent_from(challenge)
    added = addresses[addresses.index(claimed) + 1 :] if claimed in addresses else addresses
    return min(len([address for address in added if address]), MOST_HOPS)
