"""What the tests of reconcile runs share: eSMS to ask, the command, calls to ask about, and what became of them.

After each test all that was printed, logged and stored is searched for keys, tokens and passwords.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result
from constants import API_KEY, API_TOKEN, CALLBACK_TOKEN, SECRET_KEY, SPELLINGS
from makers import callback, stored_call
from running import Program
from sqlalchemy import select, update

from webapp.calls.rule import Registration
from webapp.cli.commands import cli
from webapp.esms.client import Client
from webapp.esms.sandbox.calls import normalised
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox
from webapp.reconcile.run import Reconciler
from webapp.storage.claims import due_at
from webapp.storage.models import Base, calls, reconcile_runs
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Table

    from webapp.storage.claims import Due
    from webapp.storage.database import Database

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
GIVE_UP = timedelta(hours=72)
PASSWORD = "password/of+the tests"
SECRETS = [*SPELLINGS, CALLBACK_TOKEN, API_TOKEN, PASSWORD, quote(PASSWORD, safe="")]
COUNTS = ("checked", "settled", "pending", "not_found", "failed", "gave_up")
ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
"""Enough where no database makes a difference."""
ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
"""Where it matters that the database has a clock, and connections, of its own."""


class Command:
    """``esms-calls reconcile``, in this process or in one of its own; keeps all that it printed."""

    def __init__(self) -> None:
        self.printed: list[str] = []

    def __call__(self, *arguments: str, **environment: str | None) -> Result:
        return self.invoke("reconcile", *arguments, **environment)

    def invoke(self, command: str, *arguments: str, **environment: str | None) -> Result:
        """Another command, likewise in this process."""
        result = CliRunner().invoke(cli, [command, *arguments], env=environment)
        self.printed += [result.stdout, result.stderr]
        return result

    @contextmanager
    def beside(self, *arguments: str, **environment: str) -> Iterator[Program]:
        """Let it run during the block, in a process of its own."""
        with Program("reconcile", *arguments, environment=environment) as process:
            yield process

    def end(self, process: Program) -> tuple[int, str, str]:
        """Its exit code, standard output and standard error."""
        stdout, stderr = process.communicate(timeout=30)
        self.printed += [stdout, stderr]
        return process.wait(), stdout, stderr


@pytest.fixture
def esms(settings: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:  # noqa: ARG001 - it sets the rest
    """ESMS for every command that is run from here; asked as fast as it can be."""
    for name in ("ESMS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Sandbox(Options(api_key=API_KEY, secret_key=SECRET_KEY)) as sandbox:
        for name, value in {
            "ESMS_API_URL": sandbox.api_url,
            "ESMS_API_KEY": API_KEY,
            "ESMS_SECRET_KEY": SECRET_KEY,
            "ESMS_TIMEOUT": "2s",
            "RECONCILE_RATE": "1000",
            "RECONCILE_CONCURRENCY": "16",
        }.items():
            monkeypatch.setenv(name, value)
        yield sandbox


@pytest.fixture
def reconcile(esms: Sandbox, database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[Command]:  # noqa: ARG001
    """The command; whatever the test lets it do, nothing that it leaves behind shows a secret."""
    caplog.set_level(logging.DEBUG)
    command = Command()
    yield command
    logged = [record.getMessage() + str(record.exc_info) for record in caplog.get_records("call")]
    assert shown_secrets(*command.printed, *logged, *map(str, everything(database).values())) == []


def shown_secrets(*texts: str) -> list[str]:
    return [secret for secret in SECRETS for shown in texts if secret in shown]


def everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    """All that is stored, by table."""
    with database.snapshot(limited=False) as connection:
        return {table.name: _rows(connection, table) for table in Base.metadata.sorted_tables}


def rows(database: Database, table: Table) -> list[dict[str, Any]]:
    with database.snapshot(limited=False) as connection:
        return _rows(connection, table)


def _rows(connection: Connection, table: Table) -> list[dict[str, Any]]:
    in_order = select(table).order_by(*table.primary_key)
    return [dict(row) for row in connection.execute(in_order).mappings()]


def runs(database: Database) -> list[str | None]:
    """The outcome of every run that was recorded, the oldest first."""
    return [run["outcome"] for run in sorted(rows(database, reconcile_runs), key=lambda run: run["started_at"])]


def claimed(database: Database) -> list[str]:
    return [call["reference_id"] for call in rows(database, calls) if call["claimed_until"]]


def due(database: Database) -> list[str]:
    """The calls that are due once their grace is over, in their order."""
    return Reader(database).due(due_now(timedelta(0)), 1000)[1]


def due_now(grace: timedelta = MINUTE) -> Due:
    return due_at(datetime.now(UTC), load_settings(), grace=grace)


def change(database: Database, reference_id: str, **values: Any) -> None:
    statement = update(calls).where(calls.c.reference_id == reference_id).values(values)
    with database.transaction() as connection:
        connection.execute(statement)


def make_due(database: Database, reference_id: str) -> None:
    change(database, reference_id, next_lookup_at=datetime.now(UTC))


def missing(esms: Sandbox, database: Database, count: int, *, ago: timedelta = HOUR) -> list[str]:
    """Calls that ended without a callback; placed that long ago, each a second after the one before."""
    now = datetime.now(UTC)
    reference_ids = [normalised(call.reference_id) for call in esms.place(count)]
    placed = [
        Registration(reference_id=reference_id, placed_at=now - ago + timedelta(seconds=number))
        for number, reference_id in enumerate(reference_ids)
    ]
    Writer(database).register(placed, now)
    return reference_ids


def in_conflict(esms: Sandbox, database: Database, count: int, *, ago: timedelta = HOUR) -> list[str]:
    """Such calls with two final callbacks that disagree, and that are due."""
    reference_ids = missing(esms, database, count, ago=ago)
    now = datetime.now(UTC)
    for reference_id in reference_ids:
        reports = [
            callback(reference_id, received_at=now - ago / 2, call_status="BUSY"),
            callback(reference_id, received_at=now - ago / 3, call_status="REJECTED"),
        ]
        Writer(database).record(reports, now)
        assert stored_call(database, reference_id).conflict
        make_due(database, reference_id)
    return reference_ids


def asked(esms: Sandbox) -> list[str]:
    return [lookup.reference_id for lookup in esms.lookups]


def counts(summary: str) -> dict[str, int]:
    """What was counted, of a summary in JSON."""
    return {name: number for name in COUNTS if (number := json.loads(summary)[name])}


def is_about(moment: datetime | None, pause: timedelta, began: datetime) -> bool:
    """Whether a look-up was planned, since the run began, that far ahead, give or take 10 %."""
    return moment is not None and began + 0.9 * pause <= moment <= datetime.now(UTC) + 1.1 * pause


def reconciler(database: Database) -> Reconciler:
    settings = load_settings()
    client = Client(settings.esms_api_url, API_KEY, SECRET_KEY, settings.esms_timeout)
    return Reconciler(database, client, settings)


def most_in_a_second(esms: Sandbox) -> int:
    """How many look-ups came within one second, wherever it begins."""
    return most_within(1.0, [lookup.at for lookup in esms.lookups])


def most_within(seconds: float, times: list[float]) -> int:
    """How many of these times lie within that many seconds, wherever these begin."""
    return max(sum(first <= one < first + seconds for one in times) for first in times)
