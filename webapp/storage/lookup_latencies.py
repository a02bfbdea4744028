"""Counts look-ups by their code and by how long they took: all runs on all machines add to one small table."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import select

from webapp.storage import bulk
from webapp.storage.models import lookup_latencies
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

EDGES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, math.inf)
"""Upper edges of the classes of seconds, inclusive."""
_MILLISECONDS = tuple(2**31 - 1 if math.isinf(edge) else round(edge * 1000) for edge in EDGES)
"""As they are stored; the last one stands for all that took longer."""


@dataclass(slots=True)
class Latencies:
    """Look-ups and their seconds together, by code and upper edge."""

    lookups: Counter[tuple[str, float]] = field(default_factory=Counter)
    seconds: defaultdict[tuple[str, float], float] = field(default_factory=partial(defaultdict, float))

    def note(self, code: str, seconds: float) -> None:
        """Count one look-up; ``code`` from a closed set, or the table grows."""
        key = (code, EDGES[bisect_left(EDGES, seconds)])
        self.lookups[key] += 1
        self.seconds[key] += seconds

    def cumulative(self, code: str) -> list[tuple[float, int]]:
        """For each edge, how many look-ups with this code took at most as long."""
        total = 0
        return [(edge, total := total + self.lookups[code, edge]) for edge in EDGES]

    def seconds_of(self, code: str) -> float:
        """The seconds of all look-ups with this code."""
        return sum(self.seconds.get((code, edge), 0.0) for edge in EDGES)


@retrying
def add(database: Database, latencies: Latencies) -> None:
    """Add to the table. Raises ``Unavailable``."""
    rows = [
        {
            "code": code,
            "edge_ms": _MILLISECONDS[EDGES.index(edge)],
            "lookups": number,
            "seconds": latencies.seconds[code, edge],
        }
        for (code, edge), number in latencies.lookups.items()
    ]
    with database.transaction() as connection:
        bulk.add_up(connection, lookup_latencies, rows, sums=["lookups", "seconds"])


def read(connection: Connection) -> Latencies:
    """All look-ups so far."""
    found = Latencies()
    edges = dict(zip(_MILLISECONDS, EDGES, strict=True))
    of = lookup_latencies.c
    for code, edge, lookups, seconds in connection.execute(select(of.code, of.edge_ms, of.lookups, of.seconds)):
        # A version with other classes may have written too: its look-ups go into the next class above.
        at = edges.get(edge) or EDGES[bisect_left(EDGES, edge / 1000)]
        found.lookups[code, at] += lookups
        found.seconds[code, at] += seconds
    return found
