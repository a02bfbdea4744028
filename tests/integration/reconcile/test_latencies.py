"""Look-ups are counted by code and latency in the database, whichever run on whichever machine made them."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest
from reconciling import Command, missing
from sql import write
from sqlalchemy import text

from webapp.esms.lookup import CODES, code_class
from webapp.reconcile.latencies import LatencyRecorder
from webapp.storage import lookup_latencies
from webapp.storage.lookup_latencies import EDGES, Latencies

if TYPE_CHECKING:
    from webapp.esms.sandbox.service import Sandbox
    from webapp.reconcile.dispatcher import Dispatcher
    from webapp.storage.database import Database


def stored(database: Database) -> Latencies:
    with database.snapshot() as connection:
        return lookup_latencies.read(connection)


def by_code(found: Latencies) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (code, _), number in found.lookups.items():
        counts[code] += number
    return counts


def test_the_look_ups_of_each_run_and_audit_are_added(esms: Sandbox, database: Database, reconcile: Command) -> None:
    first, second, *_ = missing(esms, database, 3)
    esms.faults = {first: "http-500", second: "104"}
    reconcile()

    found = stored(database)

    assert by_code(found) == {"http-5xx": 1, "104": 1, "100": 1}
    assert 0 < found.seconds_of("100") < 30
    missing(esms, database, 2)
    reconcile()
    assert by_code(stored(database)) == {"http-5xx": 1, "104": 1, "100": 3}
    reconcile.invoke("audit")
    assert by_code(stored(database)) == {"http-5xx": 1, "104": 1, "100": 6}


def test_a_refused_account_is_counted_by_its_code(esms: Sandbox, database: Database, reconcile: Command) -> None:
    (only,) = missing(esms, database, 1)
    esms.faults = {only: "101"}
    reconcile()

    assert by_code(stored(database)) == {"101": 1}


def test_latencies_fall_into_the_class_of_the_next_edge(database: Database) -> None:
    some = Latencies()
    for code, seconds in (("100", 0.1), ("100", 0.11), ("100", 61.0), ("timeout", 20.0)):
        some.note(code, seconds)
    for _ in range(2):
        lookup_latencies.add(database, some)

    found = stored(database)

    assert dict(found.cumulative("100")) == {edge: 2 if edge == 0.1 else 4 for edge in EDGES[:-1]} | {math.inf: 6}
    assert dict(found.cumulative("timeout")) == {edge: 0 if edge < 20 else 2 for edge in EDGES}
    assert found.seconds_of("100") == pytest.approx(2 * 61.21)
    assert dict(found.cumulative("99")) == dict.fromkeys(EDGES, 0)


def test_classes_of_another_version_go_into_the_next_class_above(database: Database) -> None:
    rows = text("INSERT INTO lookup_latencies VALUES ('100', 200, 3, 0.6), ('100', 90000, 1, 70)")
    write(database, lambda connection: connection.execute(rows))

    assert dict(stored(database).lookups) == {("100", 0.25): 3, ("100", math.inf): 1}


class Counted:
    """A dispatcher of which one look-up ended."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.latencies.note("100", 1.0)


def test_counts_wait_while_the_database_is_away(database: Database) -> None:
    counted = Counted()
    recorder = LatencyRecorder(database, cast("Dispatcher", counted))
    write(database, lambda connection: connection.execute(text("ALTER TABLE lookup_latencies RENAME TO gone")))
    recorder.save()
    counted.latencies.note("100", 1.0)
    write(database, lambda connection: connection.execute(text("ALTER TABLE gone RENAME TO lookup_latencies")))
    recorder.save()

    assert by_code(stored(database)) == {"100": 2}


@pytest.mark.parametrize(
    ("code", "counted"),
    [
        *((code, code) for code in CODES),
        ("http-502", "http-5xx"),
        ("http-404", "http-4xx"),
        ("http-302", "http-3xx"),
        ("http-999", "other"),
        ("http-", "other"),
        ("forged", "other"),
        ("", "other"),
    ],
)
def test_codes_are_counted_by_a_closed_set(code: str, counted: str) -> None:
    assert code_class(code) == counted
