"""What /metrics reads of the database agrees with what was stored."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, at, callback, lookup
from sqlalchemy import event

from webapp.calls.rule import Registration
from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer
from webapp.storage import monitoring, rollups, runs
from webapp.storage.claims import Due
from webapp.storage.monitoring import ToDecide
from webapp.storage.rejected import OTHER_CHANNEL, Rejected
from webapp.storage.runs import Run

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.monitoring import Now, Recent
    from webapp.storage.reader import Reader
    from webapp.storage.runs import RunOutcome
    from webapp.storage.writer import Writer

HOUR = 3600
LEASE = timedelta(minutes=1)
DUE = Due(placed_until=at(-600), due_until=NOW)


def now(reader: Reader) -> Now:
    return reader.now(DUE, LEASE)


def recent(reader: Reader) -> Recent:
    return reader.recent(DUE)


def reject(writer: Writer, reason: str, payload: str = "{}") -> None:
    writer.reject(
        Rejected(
            id=parameters.new_id(),
            received_at=NOW,
            remote_addr=None,
            method="GET",
            content_type=None,
            payload=payload,
            reason=reason,
        )
    )


def test_an_empty_database_has_nothing_to_show(reader: Reader) -> None:
    found = now(reader)
    assert (found.missing, reader.to_decide()) == ((0, 0), ToDecide((0, 0), (0, 0), (0, 0)))
    assert (found.overdue, found.rejected, found.other_channels) == (0, {}, 0)
    assert (found.oldest_missing, found.callback_at, found.answered_at, found.run_outcome) == (None, None, None, None)
    assert set(found.run_ends.values()) == {None}
    assert (recent(reader).outcomes, recent(reader).calls, recent(reader).unread) == ({}, {}, {})


def test_missing_calls_are_counted_by_whether_they_were_registered(writer: Writer, reader: Reader) -> None:
    writer.register(
        [Registration(reference_id="a", placed_at=at(-HOUR)), Registration(reference_id="b", placed_at=at(-60))], NOW
    )
    writer.record([callback("c", -2 * HOUR, send_status=2), callback("d", -60, call_status="ANSWERED")], NOW)

    found = now(reader)

    assert found.missing == (1, 2)
    assert found.oldest_missing == at(-2 * HOUR)
    assert found.overdue == 2, "b is within its grace"
    assert recent(reader).placed == (2, 2)
    assert found.callback_at == at(-60)


def test_calls_that_people_decide_about_are_counted_by_whether_they_are_dismissed(
    writer: Writer, reader: Reader
) -> None:
    for name in ("a", "b"):
        writer.register([Registration(reference_id=name, placed_at=at(-100 * HOUR))], NOW)
        writer.conclude([LookupAnswer(name, "104")], NOW, give_up=timedelta(hours=72))
    said = {"send_status": 5, "call_status": "ANSWERED"}
    writer.record([callback("p", 1, price=450, **said), callback("p", 2, price=900, **said)], NOW)
    for name in ("c", "d", "e"):
        writer.record([callback(name, 1, call_status="ANSWERED"), callback(name, 2, call_status="NOANSWERED")], NOW)
    writer.dismiss(["a", "c"], NOW)

    assert reader.to_decide() == ToDecide(given_up=(1, 1), conflicts=(2, 1), price_conflicts=(1, 0))


def test_rejected_callbacks_are_counted_until_a_person_has_seen_them(writer: Writer, reader: Reader) -> None:
    reject(writer, "ReferenceId: is missing")
    reject(writer, "ReferenceId: is missing", '{"query": "x"}')
    reject(writer, "body: is broken JSON")
    reject(writer, f"{OTHER_CHANNEL}2")

    assert now(reader).rejected == {"ReferenceId: is missing": 2, "body: is broken JSON": 1}
    assert now(reader).other_channels == 1
    assert now(reader).rejected_bytes > 4 * 512
    writer.dismiss_rejected(NOW)
    assert now(reader).rejected == {}


def add_run(database: Database, begun: float, outcome: RunOutcome | None, answered: float | None = None) -> None:
    ended = at(begun + 10) if outcome else None
    run = Run(id=parameters.new_id(), started_at=at(begun), host="", finished_at=ended, outcome=outcome)
    run = replace(run, answered_at=None if answered is None else at(answered))
    runs.start_run(database, run, lease=LEASE)


def test_the_last_run_and_the_end_of_the_newest_of_each_outcome(database: Database, reader: Reader) -> None:
    add_run(database, -300, "done", answered=-290)
    add_run(database, -200, "done", answered=-190)
    add_run(database, -100, "refused")

    found = now(reader)

    assert (found.run_outcome, found.run_started_at, found.answered_at) == ("refused", at(-100), at(-190))
    assert (found.run_ends["done"], found.run_ends["refused"], found.run_ends["died"]) == (at(-190), at(-90), None)
    add_run(database, -50, None)
    assert now(reader).run_outcome is None
    assert reader.now(Due(placed_until=NOW, due_until=at(60)), LEASE).run_outcome == "died"


def test_settled_calls_of_the_last_hour_and_day(writer: Writer, reader: Reader) -> None:
    writer.record(
        [
            callback("a", -60, call_status="ANSWERED"),
            callback("b", -2 * HOUR, call_status="NOANSWERED"),
            callback("c", -60, send_status=5, sent_result=0, unread="Price"),
            callback("d", -25 * HOUR, call_status="ANSWERED", unread="Ivr"),
            callback("e", -60, send_status=2, unread="Price,amp;Price"),
            lookup("f", -60, call_status="ANSWERED"),
        ],
        NOW,
    )

    found = recent(reader)

    assert found.outcomes == {"answered": 2, "unanswered": 2}
    assert found.settled_by == {
        ("day", "callback"): 3,
        ("day", "lookup"): 1,
        ("hour", "callback"): 2,
        ("hour", "lookup"): 1,
    }
    assert found.unread == {"Price": 2, "amp;Price": 1}


def test_all_calls_are_counted_by_outcome_once_the_figures_are_made(
    database: Database, writer: Writer, reader: Reader
) -> None:
    writer.record([callback(name, -60, call_status="ANSWERED") for name in "abc"], NOW)
    writer.register([Registration(reference_id="d", placed_at=at(-400 * 24 * HOUR))], NOW)
    rollups.refresh(database)

    assert recent(reader).calls == {"answered": 3, "missing": 1}


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_no_figure_reads_all_calls_reports_or_rejected_callbacks(database: Database) -> None:
    statements: list[tuple[str, Any]] = []
    with database.snapshot() as connection:

        @event.listens_for(connection, "before_cursor_execute")
        def keep(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
            statements.append((statement, parameters))

        monitoring.read_now(connection, DUE, NOW, LEASE)
        monitoring.read_recent(connection, DUE, NOW)
        monitoring.read_to_decide(connection)
        event.remove(connection, "before_cursor_execute", keep)
        plans = {
            statement: "; ".join(
                row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
            for statement, parameters in statements
        }

    assert len(plans) > 20
    rejected = [plan for statement, plan in plans.items() if "rejected_callbacks.reason" in statement]
    assert all("COVERING INDEX ix_rejected_callbacks_reasons" in plan for plan in rejected), rejected
    large = re.compile(r"SCAN (calls|status_reports|rejected_callbacks|reconcile_runs)(?! USING (COVERING )?INDEX)")
    assert {statement: plan for statement, plan in plans.items() if large.search(plan)} == {}
    searched = {name for plan in plans.values() for name in re.findall(r"INDEX (ix_\w+)", plan)}
    assert {"ix_rejected_callbacks_reasons", "ix_reconcile_runs_outcome", "ix_reconcile_runs_answered_at"} <= searched
