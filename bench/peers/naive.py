"""Naive: Flask and SQLAlchemy, one transaction for each request: the call inserted or updated, and a row of history.

With WITHOUT_ORM set, a statement inserts the history, too, instead of a session: less usual, and faster.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from flask import Flask, request
from sqlalchemy import create_engine, event, func, insert, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from bench.peers.message import FIELDS, parse
from bench.peers.tables import Call, Report

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

url = make_url(os.environ["DATABASE_URL"])
on_sqlite = url.get_backend_name() == "sqlite"
# On PostgreSQL each of the 32 threads has a connection. SQLite has one writer at a time: threads queue for one
# connection instead of polling the file's lock.
engine = create_engine(
    url,
    pool_size=1 if on_sqlite else 32,
    max_overflow=0,
    connect_args={"timeout": 30, "isolation_level": None} if on_sqlite else {},
)
without_orm = "WITHOUT_ORM" in os.environ
app = Flask(__name__)

if on_sqlite:

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


_insert = (sqlite if on_sqlite else postgresql).insert(Call)
_upsert = _insert.on_conflict_do_update(
    index_elements=[Call.reference_id],
    set_={
        **{name: func.coalesce(_insert.excluded[name], getattr(Call, name)) for name in FIELDS},
        "settled_at": func.coalesce(Call.settled_at, _insert.excluded.settled_at),
        "last_reported_at": _insert.excluded.last_reported_at,
        "report_count": Call.report_count + 1,
        "updated_at": _insert.excluded.updated_at,
    },
)

_history = insert(Report)


@app.route("/esms/callback/<token>", methods=["GET", "POST"])
def receive(token: str) -> ResponseReturnValue:  # noqa: ARG001 - the peers check no token
    """Answer after the commit."""
    row = parse(request.values, request.remote_addr)
    fields = {name: row[name] for name in ("reference_id", *FIELDS)}
    now, settled_at = row["received_at"], row.pop("settled_at")
    times = {"placed_at": now, "settled_at": settled_at, "last_reported_at": now, "updated_at": now}
    call = fields | times | {"report_count": 1}
    if without_orm:
        with engine.begin() as connection:
            connection.execute(_upsert, call)
            connection.execute(_history, row)
    else:
        with Session(engine) as session, session.begin():
            session.connection().execute(_upsert, call)
            session.add(Report(**row))
    return {"result": "stored"}
