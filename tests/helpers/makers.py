"""Makes reports in few words, and reads back what the database made of them."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from sqlalchemy import select, text

from webapp.calls import rule
from webapp.calls.report import FIELDS, StatusReport
from webapp.calls.rule import Call
from webapp.esms import lookup as esms_lookup
from webapp.esms import parameters
from webapp.esms.finality import is_final
from webapp.esms.stored import stored_report
from webapp.storage.models import calls, status_reports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.database import Database

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """``seconds`` after NOW."""
    return NOW + timedelta(seconds=seconds)


def any_of(*values: Any) -> st.SearchStrategy[Any]:
    """One of a few values, or not said: few, so that reports agree and disagree by chance."""
    return st.sampled_from([None, *values])


def report_with(**values: Any) -> StatusReport:
    """A report with these values, final if eSMS's numbers say so."""
    numbers = {name: values.get(name) for name in ("send_status", "call_status", "sent_result")}
    nothing_said = values.get("source") == "lookup" and all(values.get(name) is None for name in FIELDS)
    kind = None if nothing_said else "voice"
    usual: dict[str, Any] = {"final": is_final(**numbers, undetermined=False), "kind": kind}
    return StatusReport(**(usual | values))


def callback(reference_id: str, seconds: float = 0, **said: Any) -> StatusReport:
    """A callback received ``second`` seconds after NOW; final if it says a call_status and no send_status."""
    usual: dict[str, Any] = {
        "id": parameters.new_id(),
        "reference_id": reference_id,
        "esms_id": reference_id,
        "source": "callback",
        "received_at": at(seconds),
        "payload": json.dumps({"ReferenceId": reference_id}),
        "remote_addr": "203.0.113.7",
    }
    return report_with(**(usual | said))


def lookup(reference_id: str, seconds: float = 0, **said: Any) -> StatusReport:
    """A look-up's report, likewise."""
    return callback(reference_id, seconds, **{"source": "lookup", "lookup_code": "100", "remote_addr": None} | said)


def answer(report: StatusReport) -> LookupAnswer:
    """The answer of GetSendStatus that brought this report."""
    return esms_lookup.LookupAnswer(report.reference_id, report.lookup_code or "", report)


def fold_of(reports: Iterable[StatusReport]) -> Call:
    """What the rule makes of the reports of one call, all of them at once."""
    history = list(reports)
    return rule.fold_all(Call(reference_id=history[0].reference_id, placed_at=NOW), history)


def by_reports(call: Call) -> Call:
    """The call without what only look-ups and plans change: what is left, the set of its reports decides."""
    return replace(call, next_lookup_at=None, lookup_count=0, lookup_backoff=0, last_lookup_code=None, gave_up_at=None)


def stored_call(database: Database, reference_id: str) -> Call:
    """The call's row."""
    columns = [calls.c[field.name] for field in fields(Call)]
    with database.snapshot(limited=False) as connection:
        row = connection.execute(select(*columns).where(calls.c.reference_id == reference_id)).one()
    return Call(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public way to a row's names


def stored_reports(database: Database, reference_id: str) -> list[StatusReport]:
    """The call's history, in its order."""
    columns = [
        status_reports.c[field.name] for field in fields(StatusReport) if field.name not in {"final", "kind", "esms_id"}
    ]
    query = select(*columns).where(status_reports.c.reference_id == reference_id)
    in_order = query.order_by(status_reports.c.received_at, status_reports.c.id)
    with database.snapshot(limited=False) as connection:
        return [stored_report(row._mapping) for row in connection.execute(in_order)]  # noqa: SLF001


def change_by_hand(database: Database, statement: str, **values: Any) -> None:
    """One statement of plain SQL, as a person at a prompt gives it."""
    with database.transaction() as connection:
        connection.execute(text(statement), values)


def refuse(database: Database, names: str) -> None:
    """Have a trigger fail over the reports of these calls, not by a constraint; the words are the same each time."""
    if database.is_sqlite:
        change_by_hand(
            database,
            f"CREATE TRIGGER refuse BEFORE INSERT ON status_reports WHEN new.reference_id LIKE '{names}' "
            "BEGIN SELECT json_extract('{', '$'); END",
        )
        return
    change_by_hand(
        database,
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$ LANGUAGE plpgsql",
    )
    change_by_hand(
        database,
        "CREATE TRIGGER refuse BEFORE INSERT ON status_reports FOR EACH ROW "
        f"WHEN (new.reference_id LIKE '{names}') EXECUTE FUNCTION refuse()",
    )


def refuse_everywhere(database: Database, name: str) -> None:
    """Have constraints refuse the reports of one call, and refuse to keep them as rejected callbacks."""
    if database.is_sqlite:
        for table, column in (("status_reports", "reference_id"), ("rejected_callbacks", "payload")):
            change_by_hand(
                database,
                f"CREATE TRIGGER no_{table} BEFORE INSERT ON {table} WHEN new.{column} LIKE '%{name}%' "
                "BEGIN SELECT RAISE(ABORT, 'not here'); END",
            )
        return
    change_by_hand(database, f"ALTER TABLE status_reports ADD CONSTRAINT not_here CHECK (reference_id <> '{name}')")
    change_by_hand(
        database, f"ALTER TABLE rejected_callbacks ADD CONSTRAINT not_here CHECK (payload NOT LIKE '%{name}%')"
    )


def allow_everywhere(database: Database) -> None:
    """Take these constraints away again."""
    for table in ("status_reports", "rejected_callbacks"):
        change_by_hand(
            database,
            f"DROP TRIGGER no_{table}" if database.is_sqlite else f"ALTER TABLE {table} DROP CONSTRAINT not_here",
        )
