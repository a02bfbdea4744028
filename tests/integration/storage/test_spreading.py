"""The two large tables can be spread over machines by ``reference_id``: keys and statements hold to one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from commands import ON_POSTGRESQL
from constants import API_TOKEN, CALLBACK_TOKEN
from makers import NOW, callback
from plans import SPREAD, explained, joins_of_different_calls
from reconciling import in_conflict, missing
from schemas import shape_of
from sqlalchemy import text

from webapp.storage.models import Base

if TYPE_CHECKING:
    from flask import Flask
    from reconciling import Command

    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

pytestmark = pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")

CALLBACKS = (
    ("new", "SendStatus=7"),
    ("new", "SendStatus=5&CallStatus=ANSWERED"),
    ("new", "SendStatus=5&CallStatus=BUSY&Price=450"),  # a conflict: the whole history is folded
    ("other", "SendStatus=5"),
)


def test_every_unique_key_of_calls_and_reports_holds_the_call(database: Database) -> None:
    with database.snapshot() as connection:
        keys = {(table, columns) for table, columns in shape_of(connection).keys if table in SPREAD}
    assert ("calls", ("reference_id",)) in keys
    assert {table for table, _ in keys} == set(SPREAD)
    assert all("reference_id" in columns for _, columns in keys)
    for table in SPREAD:
        assert "reference_id" in Base.metadata.tables[table].primary_key.columns


@ON_POSTGRESQL
@pytest.mark.usefixtures("settings")
def test_no_statement_that_receives_or_reconciles_joins_different_calls(
    app: Flask, database: Database, writer: Writer, esms: Sandbox, reconcile: Command
) -> None:
    missing(esms, database, 3)
    in_conflict(esms, database, 2)
    client = app.test_client()
    with explained() as plans:
        for call, words in CALLBACKS * 2:
            assert client.get(f"/esms/callback/{CALLBACK_TOKEN}?ReferenceId={call}&{words}").status_code == 200
        registered = {"reference_id": "new", "campaign": "tet"}, {"reference_id": "newer"}
        bearer = {"Authorization": f"Bearer {API_TOKEN}"}
        assert client.post("/api/calls", headers=bearer, json=list(registered)).status_code == 201
        report = callback("new", 9)
        effects = writer.record([report, callback("newest", 10)], NOW)
        assert writer.record([report], NOW) == effects[:1], "it is stored already"
        assert reconcile().exit_code == 0
        assert reconcile(VERIFY="all").exit_code == 0

    found = {statement: problems for statement, plan in plans.items() if (problems := joins_of_different_calls(plan))}
    assert found == {}
    assert sum("status_reports" in statement for statement in plans) >= 3, "written, read by id and by call"
    assert any("SKIP LOCKED" in statement for statement in plans), "calls were claimed"
    assert any(statement.startswith("UPDATE calls") for statement in plans)


@ON_POSTGRESQL
def test_a_join_of_different_calls_is_found(database: Database) -> None:
    by_phone = text("SELECT * FROM calls JOIN calls other ON other.phone = calls.phone")
    by_call = text('SELECT * FROM calls JOIN status_reports AS "Other" USING (reference_id)')
    with explained() as plans, database.snapshot() as connection:
        connection.execute(by_phone)
        connection.execute(by_call)
    assert [bool(joins_of_different_calls(plans[str(query)])) for query in (by_phone, by_call)] == [True, False]
