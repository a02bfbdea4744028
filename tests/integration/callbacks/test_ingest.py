"""The ingest: the outcome of callbacks one by one and together, while the database is there, down, and back again."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from constants import PROBE_OFTEN
from ledger import MARGIN_SECONDS
from makers import (
    allow_everywhere,
    by_reports,
    change_by_hand,
    refuse,
    refuse_everywhere,
    stored_call,
    stored_reports,
)
from sqlalchemy import NullPool, create_engine, select, text
from until import until

from webapp.callbacks import parsing
from webapp.callbacks.batch_writer import BatchWriter
from webapp.callbacks.ingest import Ingest
from webapp.callbacks.parsing import report_from_request, request_as_json
from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Spool
from webapp.callbacks.store import Accepted, NotAccepted
from webapp.calls import report, rule
from webapp.calls.rule import Call
from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.storage.database import Database
from webapp.storage.errors import Unavailable
from webapp.storage.models import rejected_callbacks
from webapp.storage.rejected import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from webapp.storage.writer import Writer

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
WITHIN = timedelta(seconds=2)
SHORT = timedelta(seconds=0.2)
IN_TIME_SECONDS = WITHIN.total_seconds() + MARGIN_SECONDS
LIMIT = 1 << 20
POISON = {
    True: "CREATE TRIGGER no_poison BEFORE INSERT ON status_reports WHEN new.reference_id = 'poison' "
    "BEGIN SELECT RAISE(ABORT, 'poison'); END",
    False: "ALTER TABLE status_reports ADD CONSTRAINT no_poison CHECK (reference_id <> 'poison')",
}


# Outcomes


def request(query: str, body: bytes = b"", **words: Any) -> CallbackRequest:
    usual: dict[str, Any] = {"method": "GET", "content_type": None, "remote_addr": "203.0.113.7"}
    return CallbackRequest(
        id=parameters.new_id(), received_at=datetime.now(UTC), query=query.encode(), body=body, **usual | words
    )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "instance", LIMIT)
    yield spool
    spool.close()


def drain(receiver: Ingest) -> list[int]:
    """Drain the spool once; how many were stored after each portion."""
    assert receiver.drain
    return list(receiver.drain.run())


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the database is back."""
    for name, seconds in PROBE_OFTEN.items():
        monkeypatch.setattr(name, seconds)


@contextmanager
def ingest_on(
    database: Database | str,
    spool: Spool | None,
    answer_within: timedelta = WITHIN,
    *,
    patience: timedelta | None = None,
    **options: Any,
) -> Iterator[Ingest]:
    """An ingest with connections of its own, as the server has it; ``patience``: it waits shorter for a lock."""
    url = database if isinstance(database, str) else database.url.render_as_string(hide_password=False)
    mine = Database(url, patience=patience or answer_within * 0.3, transaction_limit=answer_within, **options)
    found = Ingest(mine, spool, answer_within)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def receiver(database: Database, spool: Spool) -> Iterator[Ingest]:
    with ingest_on(database, spool) as found:
        yield found


def kept(database: Database) -> list[Any]:
    with database.snapshot(limited=False) as connection:
        return list(connection.execute(select(rejected_callbacks).order_by(rejected_callbacks.c.first_at)))


def together(take: Callable[[CallbackRequest], Any], *requests: CallbackRequest) -> list[Any]:
    """The outcomes of requests that arrive at once."""
    results: dict[int, Any] = {}

    def ask(place: int) -> None:
        try:
            results[place] = take(requests[place])
        except Unavailable as problem:
            results[place] = problem

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[place] for place in range(len(requests))]


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Another process has the lock that storing needs."""
    if database.is_sqlite:
        with closing(sqlite3.connect(str(database.url.database), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    engine = create_engine(database.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE calls, rejected_callbacks, alembic_version IN ACCESS EXCLUSIVE MODE"))
        yield


def test_report_is_stored_and_answered_with_its_effect(receiver: Ingest, database: Database, spool: Spool) -> None:
    first, second = request("ReferenceId=A&SendStatus=7"), request("", b"ReferenceId=a&SendStatus=5", method="POST")

    assert [receiver.receive(one) for one in (first, second)] == [Accepted("progressed", "a"), Accepted("settled", "a")]

    assert [(one.id, one.received_at) for one in stored_reports(database, "a")] == [
        (one.id, one.received_at) for one in (first, second)
    ]
    assert spool.depth().reports == 0


def test_an_unreadable_callback_is_rejected_with_its_reason(receiver: Ingest, database: Database) -> None:
    one = request("SendStatus=5", content_type="text/\0x")
    cut = request("ReferenceId=a", b"CallDuration=1", problem="body: ended before it was whole")

    assert receiver.receive(one) == NotAccepted("ReferenceId: is missing")
    assert receiver.receive(cut) == NotAccepted("body: ended before it was whole")

    rows = kept(database)
    assert [(row.id, row.first_at, row.reason, row.count) for row in rows] == [
        (one.id, one.received_at, "ReferenceId: is missing", 1),
        (cut.id, cut.received_at, "body: ended before it was whole", 1),
    ]
    assert json.loads(rows[0].payload) == {"query": "SendStatus=5", "body": ""}
    assert stored_reports(database, "a") == []


def test_several_reports_of_one_call_in_one_batch_end_in_their_fold(receiver: Ingest, database: Database) -> None:
    said = [
        "SendStatus=7",
        "CallStatus=BUSY&SendStatus=5",
        "CallStatus=ANSWERED&SendStatus=5",
        "Price=450&SendStatus=5",
    ]
    requests = [
        request(f"ReferenceId={name}&{words}&CID={number}") for number in range(8) for name in "ab" for words in said
    ]

    results = together(receiver.receive, *requests)

    assert {type(one) for one in results} == {Accepted}
    for name in "ab":
        reports = stored_reports(database, name)
        assert len(reports) == 32
        call = stored_call(database, name)
        assert by_reports(call) == by_reports(rule.fold_all(Call(reference_id=name, placed_at=call.placed_at), reports))


@pytest.mark.parametrize("place", range(4))
def test_a_report_that_the_database_refuses_is_rejected_and_the_others_of_its_batch_are_stored(
    receiver: Ingest, database: Database, place: int
) -> None:
    change_by_hand(database, POISON[database.is_sqlite])
    requests = [request(f"ReferenceId={'poison' if place == number else f'n{number}'}") for number in range(4)]

    results = received_in_one_batch(receiver, database, requests)

    refused = NotAccepted("The database refuses a value of this report")
    assert results == [refused if place == number else Accepted("progressed", f"n{number}") for number in range(4)]
    assert [row.id for row in kept(database)] == [requests[place].id]


def received_in_one_batch(receiver: Ingest, database: Database, requests: list[CallbackRequest]) -> list[Any]:
    """What the requests are answered; they wait together behind another one, which the locked database holds up."""
    answers: list[Any] = []
    store = receiver._store  # noqa: SLF001
    with locked(database):
        blocker = threading.Thread(target=receiver.receive, args=(request("ReferenceId=first"),))
        blocker.start()
        # On SQLite the other one waits with them: a batch is collected once the transaction has begun.
        until(lambda: store._thread and len(store._queue) == database.is_sqlite, pause=0.005)  # noqa: SLF001
        asking = threading.Thread(target=lambda: answers.extend(together(receiver.receive, *requests)))
        asking.start()
        until(lambda: len(store._queue) == len(requests) + database.is_sqlite, pause=0.005)  # noqa: SLF001
    for thread in (blocker, asking):
        thread.join(20)
    return answers


# The database is down


def lock(database: Database) -> Any:
    return locked(database)


@contextmanager
def tables_gone(database: Database) -> Iterator[None]:
    change_by_hand(database, "ALTER TABLE status_reports RENAME TO gone")
    yield
    change_by_hand(database, "ALTER TABLE gone RENAME TO status_reports")


@pytest.mark.parametrize("away", [lock, tables_gone], ids=["locked", "a table is gone"])
def test_while_the_database_is_down_reports_are_spooled_in_time_and_then_stored(
    receiver: Ingest, database: Database, spool: Spool, away: Callable[[Database], Any]
) -> None:
    assert receiver.receive(request("ReferenceId=before")) == Accepted("progressed", "before")
    requests = [request(f"ReferenceId=a&Ivr={number}") for number in range(6)]
    unreadable = request("Ivr=1")

    with away(database):
        for one in (*requests[:2], unreadable, *requests[2:]):
            began = time.monotonic()
            result = receiver.receive(one)
            assert (
                result == NotAccepted("ReferenceId: is missing")
                if one is unreadable
                else result == Accepted("spooled", "a")
            )
            assert time.monotonic() - began < IN_TIME_SECONDS
        assert together(receiver.receive, *requests) == [Accepted("spooled", "a")] * 6, "the same ones, once more"
        # What cannot be read may have found its place already, where it is not that table that is gone.
        assert spool.depth().reports in {6, 7}

    until(lambda: spool.depth().reports == 0)
    assert receiver.receive(request("ReferenceId=after")) == Accepted("progressed", "after")
    assert [one.id for one in stored_reports(database, "a")] == [one.id for one in requests]
    assert [(row.id, row.count) for row in kept(database)] == [(unreadable.id, 1)]


def test_without_a_database_reports_are_spooled(tmp_path: Path, spool: Spool) -> None:
    with ingest_on(f"sqlite:///{tmp_path}/nowhere/calls.db", spool) as receiver:
        assert receiver.receive(request("ReferenceId=a")) == Accepted("spooled", "a")
    assert spool.depth().reports == 1


@ON_SQLITE
def test_the_spool_has_the_time_that_the_database_does_not_need(
    database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slow for some seconds costs no callback then."""
    given: list[float] = []
    write = BatchWriter.write

    def noting(self: BatchWriter[Any, Any], item: Any, seconds: float) -> Any:
        given.append(seconds)
        return write(self, item, seconds)

    monkeypatch.setattr(BatchWriter, "write", noting)
    with ingest_on(database, spool, timedelta(minutes=1)) as receiver, tables_gone(database):
        for _ in range(2):  # the first finds out that the database takes no report
            assert receiver.receive(request("ReferenceId=a")) == Accepted("spooled", "a")

    (database_seconds, *spool_seconds) = given
    assert 20 < database_seconds <= 24
    assert len(spool_seconds) == 2
    assert all(36 < seconds <= 40 for seconds in spool_seconds)


@contextmanager
def says_nothing() -> Iterator[str]:
    """URL of a PostgreSQL that accepts every connection, and never answers."""
    lines = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    lines.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"postgresql+psycopg://u:p@127.0.0.1:{server.getsockname()[1]}/calls"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    for line in lines:
        line.close()


def test_a_database_that_hangs_costs_no_more_than_the_time_to_answer(spool: Spool) -> None:
    with says_nothing() as url, ingest_on(url, spool) as receiver:
        began = time.monotonic()
        assert (
            together(receiver.receive, *[request("ReferenceId=a") for _ in range(5)]) == [Accepted("spooled", "a")] * 5
        )
        assert time.monotonic() - began < IN_TIME_SECONDS

        assert min(seconds_to_spool(receiver) for _ in range(5)) < 0.5, "it is known by now"


def seconds_to_spool(receiver: Ingest) -> float:
    """How long it takes to answer one more report so."""
    began = time.monotonic()
    assert receiver.receive(request("ReferenceId=a")) == Accepted("spooled", "a")
    return time.monotonic() - began


@ON_SQLITE
def test_large_requests_are_parsed_one_at_a_time_and_small_ones_meanwhile(
    database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, parsing_large, go_on = parsing.parse, threading.Event(), threading.Event()

    def slow(what: CallbackRequest, *others: Any) -> Any:
        if what.body:
            parsing_large.set()
            assert go_on.wait(30)
        return parse(what, *others)

    monkeypatch.setattr(parsing, "parse", slow)
    body = b"x=" + b"y" * 5000
    with ingest_on(database, spool, timedelta(seconds=1)) as receiver:
        first = threading.Thread(target=receiver.receive, args=(request("ReferenceId=first", body),))
        first.start()
        assert parsing_large.wait(30)
        assert receiver.receive(request("ReferenceId=small")) == Accepted("progressed", "small")
        with pytest.raises(Unavailable, match="too many requests of over 4 KiB came at once"):
            receiver.receive(request("ReferenceId=second", body))
        go_on.set()
        first.join(30)
        assert receiver.receive(request("ReferenceId=second", body)) == Accepted("progressed", "second")
    assert all(stored_reports(database, name) for name in ("first", "small", "second"))


def test_without_a_spool_it_is_unavailable_in_time(database: Database) -> None:
    with ingest_on(database, None, patience=SHORT) as receiver:
        receiver.start()
        with locked(database):
            for query in ("ReferenceId=a", "x=1"):
                began = time.monotonic()
                with pytest.raises(Unavailable, match="the spool is off"):
                    receiver.receive(request(query))
                assert time.monotonic() - began < IN_TIME_SECONDS
        assert receiver.drain is None
        assert receiver.receive(request("ReferenceId=a")) == Accepted("progressed", "a")


def test_with_a_full_spool_it_is_unavailable_and_what_was_spooled_is_stored(database: Database, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "instance", 1 << 16)
    with ingest_on(database, spool, patience=SHORT) as receiver:
        with locked(database):
            taken = [f"a{number}" for number in range(4)]
            for name in taken:
                assert receiver.receive(request(f"ReferenceId={name}", b"x" * 9000)) == Accepted("spooled", name)
            with pytest.raises(Unavailable, match=r"neither the database nor the spool .* SPOOL_LIMIT"):
                receiver.receive(request("ReferenceId=b", b"x" * 40_000))
        until(lambda: spool.depth().reports == 0)
        assert receiver.receive(request("ReferenceId=b", b"x" * 40_000)) == Accepted("progressed", "b")
    assert [len(stored_reports(database, name)) for name in taken] == [1] * 4


@ON_SQLITE
def test_a_spool_that_cannot_be_used_is_unavailable(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        ingest_on(database, Spool(tmp_path / "file", LIMIT), patience=SHORT) as receiver,
        locked(database),
        pytest.raises(Unavailable, match=r"neither the database nor the spool can take a report: .*spool\.db"),
    ):
        receiver.receive(request("ReferenceId=a"))


@ON_POSTGRESQL
def test_report_whose_late_commit_succeeds_counts_once(database: Database, spool: Spool) -> None:
    change_by_hand(
        database,
        "CREATE FUNCTION slowly() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(0.5); RETURN new; END' LANGUAGE plpgsql",
    )
    change_by_hand(
        database, "CREATE TRIGGER slow BEFORE INSERT ON status_reports FOR EACH ROW EXECUTE FUNCTION slowly()"
    )
    one = request("ReferenceId=a&SendStatus=5")

    with ingest_on(database, spool, timedelta(seconds=1)) as receiver:
        assert receiver.receive(one) == Accepted("spooled", "a")
        until(lambda: spool.depth().reports == 0)
        time.sleep(0.3)

    assert [report.id for report in stored_reports(database, "a")] == [one.id]
    assert stored_call(database, "a").report_count == 1


# The drain


def test_what_an_earlier_process_left_is_stored_from_the_start(
    database: Database, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [request(f"ReferenceId=a&Ivr={number}") for number in range(450)]
    spool.append(requests)

    with ingest_on(database, spool) as receiver:
        assert drain(receiver) == [200, 400, 450]
    assert [one.id for one in stored_reports(database, "a")] == [one.id for one in requests]

    spool.append(late := [request("ReferenceId=b"), request("x=1")])
    with ingest_on(database, spool) as receiver:
        receiver.start()
        receiver.start()
        until(lambda: "2 callbacks that waited in the spool are stored now" in caplog.text)
    assert spool.depth().reports == 0
    assert [one.id for one in stored_reports(database, "b")] == [late[0].id]
    assert [row.id for row in kept(database)] == [late[1].id]


@ON_SQLITE
def test_drain_lets_other_greenlets_run_after_each_callback(
    receiver: Ingest, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append([request(f"ReferenceId={number}") for number in range(3)])
    steps: list[object] = []

    def read(*kept: Any) -> report.StatusReport:
        steps.append("read")
        return report_from_request(*kept)

    monkeypatch.setattr(parsing, "report_from_request", read)
    monkeypatch.setattr(time, "sleep", steps.append)

    drain(receiver)

    assert steps == ["read", 0] * 3


def test_one_process_drains_at_a_time(database: Database, spool: Spool, tmp_path: Path) -> None:
    spool.append([request(f"ReferenceId=a&Ivr={number}") for number in range(300)])
    with ingest_on(database, spool) as one, ingest_on(database, Spool(tmp_path / "instance", LIMIT)) as other:
        assert one.drain
        assert [drain(other) for _ in one.drain.run()] == [[], []]

    assert stored_call(database, "a").report_count == len(stored_reports(database, "a")) == 300


def test_drain_without_database_or_spool_file_raises_and_loses_nothing(database: Database, spool: Spool) -> None:
    spool.append([request("ReferenceId=a")])
    with ingest_on(database, spool, patience=SHORT) as receiver:
        with locked(database), pytest.raises(Unavailable):
            drain(receiver)
        assert spool.depth().reports == 1
        drain(receiver)
    assert stored_call(database, "a").report_count == 1


def test_a_callback_that_was_rejected_before_for_another_reason_does_not_stop_the_drain(
    receiver: Ingest, database: Database, writer: Writer, spool: Spool
) -> None:
    """A process died between the commit and the removal, and a newer version words the reason otherwise."""
    one, next_one = request("x=1"), request("ReferenceId=a")
    words: dict[str, Any] = {
        "payload": "{}",
        "reason": "in other words",
        "content_type": None,
        "method": "GET",
        "remote_addr": None,
    }
    writer.reject(Rejected(id=one.id, received_at=one.received_at, **words))
    spool.append([one, next_one])

    drain(receiver)

    assert spool.depth().reports == 0
    assert [(row.id, row.count) for row in kept(database)] == [(one.id, 1)]
    assert stored_call(database, "a").report_count == 1


@ON_POSTGRESQL
def test_drain_skips_a_locked_call_and_stores_it_later(database: Database, spool: Spool) -> None:
    with ingest_on(database, spool, patience=SHORT) as receiver:
        receiver.receive(request("ReferenceId=locked"))
        spool.append([request(f"ReferenceId={'locked' if number == 7 else number}") for number in range(20)])
        with create_engine(database.url, poolclass=NullPool).begin() as another:
            another.execute(text("SELECT 1 FROM calls WHERE reference_id = 'locked' FOR UPDATE"))
            drain(receiver)
            assert [one.query for _, one in spool.oldest(9)] == [b"ReferenceId=locked"]
        assert stored_call(database, "19").report_count == 1
        drain(receiver)

    assert spool.depth().reports == 0
    assert stored_call(database, "locked").report_count == 2


@ON_POSTGRESQL
def test_many_reports_of_a_locked_call_delay_others_no_longer_than_one_does(database: Database, spool: Spool) -> None:
    names = ["locked" if number % 5 else str(number) for number in range(50)]
    with ingest_on(database, spool, patience=SHORT) as receiver:
        receiver.receive(request("ReferenceId=locked"))
        spool.append([request(f"ReferenceId={name}") for name in names])
        with create_engine(database.url, poolclass=NullPool).begin() as another:
            another.execute(text("SELECT 1 FROM calls WHERE reference_id = 'locked' FOR UPDATE"))
            receiver._breaker.open("as a report of that call opens it")  # noqa: SLF001
            began = time.monotonic()
            drain(receiver)
            assert time.monotonic() - began < 6, "and not 10"
            assert receiver.receive(request("ReferenceId=new")) == Accepted("progressed", "new")
        assert {one.query for _, one in spool.oldest(99)} == {b"ReferenceId=locked"}
        drain(receiver)

    assert spool.depth().reports == 0
    assert [stored_call(database, name).report_count for name in ("locked", "0", "45", "new")] == [41, 1, 1, 1]


# What the database refuses by an error that an outage might have too


def waiting(spool: Spool) -> list[bytes]:
    return [one.query for _, one in spool.oldest(99)]


@pytest.mark.parametrize("place", range(4))
def test_a_report_that_the_database_refuses_again_and_again_is_rejected(
    receiver: Ingest, database: Database, spool: Spool, place: int
) -> None:
    refuse(database, "poison")
    requests = [request(f"ReferenceId={'poison' if place == number else f'n{number}'}") for number in range(4)]
    spool.append(requests)

    drain(receiver)
    assert waiting(spool) == [requests[place].query]
    assert kept(database) == [], "once is not enough"
    if place == 3:
        drain(receiver)
        assert kept(database) == [], "nothing was stored after it was refused"
        spool.append([request("ReferenceId=later")])
        drain(receiver)
    drain(receiver)

    assert spool.depth().reports == 0
    (row,) = kept(database)
    assert (row.id, row.first_at) == (requests[place].id, requests[place].received_at)
    assert row.reason == "The database refuses a value of this report"
    assert [len(stored_reports(database, f"n{number}")) for number in range(4) if number != place] == [1, 1, 1]


def test_while_a_trigger_refuses_every_report_all_stay_in_the_spool(
    receiver: Ingest, database: Database, spool: Spool
) -> None:
    refuse(database, "%")
    spool.append([request(f"ReferenceId={name}") for name in "abc"])
    spool.append([request("x=1")])

    for _ in range(3):
        drain(receiver)
    assert waiting(spool) == [b"ReferenceId=a", b"ReferenceId=b", b"ReferenceId=c"]
    assert [row.reason for row in kept(database)] == ["ReferenceId: is missing"]

    change_by_hand(database, f"DROP TRIGGER refuse{'' if database.is_sqlite else ' ON status_reports'}")
    drain(receiver)
    assert spool.depth().reports == 0
    assert [len(stored_reports(database, name)) for name in "abc"] == [1, 1, 1]


def test_a_refused_report_that_cannot_be_rejected_either_stays_in_the_spool_and_delays_no_other(
    receiver: Ingest, database: Database, spool: Spool
) -> None:
    refuse(database, "poison")
    change_by_hand(database, "ALTER TABLE rejected_callbacks RENAME TO gone")
    for name in "abc":
        spool.append([request("ReferenceId=poison")] if name == "a" else [])
        spool.append([request(f"ReferenceId={name}")])
        drain(receiver)
        assert waiting(spool) == [b"ReferenceId=poison"]
    change_by_hand(database, "ALTER TABLE gone RENAME TO rejected_callbacks")
    drain(receiver)

    assert [len(kept(database)), spool.depth().reports] == [1, 0]


@pytest.mark.parametrize("place", range(4))
def test_a_callback_that_can_be_neither_stored_nor_rejected_waits_in_the_spool_and_those_behind_it_are_stored(
    receiver: Ingest, database: Database, spool: Spool, place: int
) -> None:
    refuse_everywhere(database, "poison")
    requests = [request(f"ReferenceId={'poison' if place == number else f'n{number}'}") for number in range(4)]
    unreadable = request("x=poison")
    spool.append([*requests, unreadable])

    for _ in range(2):
        drain(receiver)
        assert receiver.drain
        assert waiting(spool) == [requests[place].query, unreadable.query]
        assert receiver.drain.failed.keys() == {requests[place].id, unreadable.id}
        assert all("not_here" in words or "not here" in words for words in receiver.drain.failed.values())
        assert [len(stored_reports(database, f"n{number}")) for number in range(4) if number != place] == [1, 1, 1]

    allow_everywhere(database)
    drain(receiver)
    assert spool.depth().reports == 0
    assert len(stored_reports(database, "poison")) == 1
    assert [row.id for row in kept(database)] == [unreadable.id]


def test_a_callback_that_can_be_neither_stored_nor_rejected_is_answered_spooled_and_its_batch_is_stored(
    database: Database, spool: Spool
) -> None:
    refuse_everywhere(database, "poison")
    requests = [request(f"ReferenceId={name}") for name in ("a", "poison", "b", "c")]
    with ingest_on(database, spool, timedelta(seconds=20)) as receiver:
        results = received_in_one_batch(receiver, database, requests)

        stored = [Accepted("progressed", name) for name in "abc"]
        assert results == [stored[0], Accepted("spooled", "poison"), *stored[1:]]
        assert waiting(spool) == [b"ReferenceId=poison"]
        assert receiver.receive(request("x=poison")) == NotAccepted("ReferenceId: is missing")
        assert waiting(spool) == [b"ReferenceId=poison", b"x=poison"]
        assert receiver.receive(request("ReferenceId=after")) == Accepted("progressed", "after")

        allow_everywhere(database)
        until(lambda: spool.depth().reports == 0)
        assert len(stored_reports(database, "poison")) == 1


def test_without_a_spool_a_callback_that_can_be_neither_stored_nor_rejected_is_unavailable(database: Database) -> None:
    refuse_everywhere(database, "poison")
    with ingest_on(database, None) as receiver, pytest.raises(Unavailable, match="the spool is off"):
        receiver.receive(request("ReferenceId=poison"))


@ON_POSTGRESQL
def test_a_portion_of_reports_of_locked_calls_alone_is_skipped(database: Database, spool: Spool) -> None:
    with ingest_on(database, spool, patience=SHORT) as receiver:
        receiver.receive(request("ReferenceId=locked"))
        spool.append([request("ReferenceId=locked") for _ in range(3)])
        spool.append([request("ReferenceId=last")])
        with create_engine(database.url, poolclass=NullPool).begin() as another:
            another.execute(text("SELECT 1 FROM calls WHERE reference_id = 'locked' FOR UPDATE"))
            drain(receiver)
            assert waiting(spool) == [b"ReferenceId=locked"] * 3
            assert stored_call(database, "last").report_count == 1
        drain(receiver)

    assert spool.depth().reports == 0
    assert stored_call(database, "locked").report_count == 4


def test_running_out_of_memory_rejects_no_report(
    receiver: Ingest, database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(esms_callback, "parse_callback", out_of_memory)
        assert receiver.receive(request("ReferenceId=a")) == Accepted("spooled", "(not read: out of memory)")
        patch.undo()
        patch.setattr(rule, "fold", out_of_memory)
        assert receiver.receive(request("ReferenceId=b")) == Accepted("spooled", "b")

    until(lambda: spool.depth().reports == 0)
    assert kept(database) == []
    assert [len(stored_reports(database, name)) for name in "ab"] == [1, 1]


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


# What was kept


def test_a_request_and_its_rejected_row_are_parsed_to_the_same_report() -> None:
    one = request("ReferenceId=A&Price=450", b'{"Ivr": "007", "Note": "\xff"}', content_type="application/json")
    among_the_rejected: dict[str, Any] = {
        "id": one.id,
        "received_at": one.received_at,
        "remote_addr": one.remote_addr,
        "method": one.method,
        "content_type": one.content_type,
        "reason": "This server could not read it",
    }

    whole = Rejected(payload=esms_callback.storable_request(one.query, one.body), **among_the_rejected)
    cut = Rejected(payload=esms_callback.storable_request(one.query, one.body, whole=False), **among_the_rejected)

    assert report_from_request(whole) == report_from_request(one)
    assert (report_from_request(one).id, report_from_request(one).reference_id, report_from_request(one).ivr) == (
        one.id,
        "a",
        "007",
    )
    for half in (cut, replace(one, problem="body: ended before it was whole")):
        with pytest.raises(parameters.Unreadable, match="body: "):
            report_from_request(half)
    with pytest.raises(ValueError, match="no request"):
        report_from_request(replace(whole, payload="[]"))


# What people are shown


def test_spooled_request_is_shown_as_received_with_its_fields() -> None:
    one = request("ReferenceId=A&Price=450&Ivr=007", b"\xff", content_type="text/plain", method="POST")
    shown = request_as_json(one)

    assert (shown["id"], shown["query"], shown["body"]) == (str(one.id), "ReferenceId=A&Price=450&Ivr=007", "\\xff")
    assert (shown["reference_id"], shown["said"], shown["reason"]) == ("a", {"price": "450.0000", "ivr": "007"}, None)
    assert datetime.fromisoformat(shown["received_at"]) == one.received_at
    assert request_as_json(request("x=1"))["reason"] == "ReferenceId: is missing"
    assert request_as_json(request("x=1"))["said"] == {}
