"""The list of calls as a file: the rows of ``export``, streamed, for those who are signed in."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from commands import ON_POSTGRESQL, ON_SQLITE, done, many_calls
from constants import CALLBACK_TOKEN
from makers import NOW, at, callback, change_by_hand
from pages import sign_in

from webapp.callbacks.views import RETRY_AFTER_SECONDS
from webapp.calls.rule import Registration
from webapp.storage import search
from webapp.storage.exports import COLUMNS
from webapp.web.pages import downloads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer


@pytest.fixture
def reading(app: Flask) -> FlaskClient:
    """A client that is signed in."""
    client = app.test_client()
    assert sign_in(client).status_code == 302
    return client


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_the_list_is_what_export_writes_newest_first(reading: FlaskClient, writer: Writer) -> None:
    many_calls(writer, 1100)
    writer.record([callback("a", -5, call_status="ANSWERED", price=450, ivr="007")], NOW)

    answer = reading.get("/calls.csv?since=2026-11-01")
    lines = reading.get("/calls.jsonl")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="calls-20')
    assert answer.headers["Cache-Control"] == "no-store"
    header, *exported = rows(done("export"))
    assert header == list(COLUMNS)
    assert rows(answer.text) == [header, *reversed(exported)]
    assert len(exported) == 1101
    as_json = [json.loads(line) for line in done("export", "--format", "jsonl").splitlines()]
    assert [json.loads(line) for line in lines.text.splitlines()] == as_json[::-1]


def test_the_list_has_the_calls_that_are_chosen(reading: FlaskClient, writer: Writer) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(0), phone="+84901888484")], NOW)
    writer.register([Registration(reference_id="b", placed_at=at(10), campaign="Tết")], NOW)
    writer.record([callback("c", 20, call_status="ANSWERED")], NOW)
    for query, names in [
        ("campaign=Tết", ["b"]),
        ("outcome=answered", ["c"]),
        ("until=2026-11-23T10:00:20Z", ["b", "a"]),
        ("since=2026-11-23T10:00:10Z&until=2026-11-23T10:00:20Z&lang=en", ["b"]),
        ("phone=0901 888 484", ["a"]),
        ("campaign=no", []),
        ("", ["c", "b", "a"]),
    ]:
        answer = reading.get(f"/calls.csv?{query}")

        assert [row[0] for row in rows(answer.text)] == ["reference_id", *names]


def test_a_search_is_downloaded_whole_however_many_it_finds(
    reading: FlaskClient, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.register([Registration(reference_id=f"a-{number}", placed_at=at(number)) for number in range(4)], NOW)
    writer.register([Registration(reference_id="b", placed_at=at(9), request_id="a-9")], NOW)
    monkeypatch.setattr(search, "MOST_FOUND", 3)

    every, few = (reading.get(f"/calls.csv?q={text}") for text in ("a-", "a-2"))

    assert [row[0] for row in rows(every.text)[1:]] == ["b", "a-3", "a-2", "a-1", "a-0"]
    assert [row[0] for row in rows(few.text)[1:]] == ["a-2"]


@ON_SQLITE
def test_a_spreadsheet_is_given_no_formula_and_every_other_value_as_it_is(
    reading: FlaskClient, writer: Writer, database: Database
) -> None:
    guarded = ["=cmd|' /C calc'!A0", "@SUM(A1)", "+1+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1"]
    exact = ["+84901888484", "0901888484", "-5", "Tết, 1=2", "3-4", "#"]
    texts = [*guarded, *exact]
    writer.register([Registration(reference_id=f"c{n}", placed_at=at(n)) for n in range(len(texts))], NOW)
    for number, text in enumerate(texts):
        change_by_hand(
            database, "UPDATE calls SET campaign = :text WHERE reference_id = :id", text=text, id=f"c{number}"
        )

    found = [row[COLUMNS.index("campaign")] for row in rows(reading.get("/calls.csv").text)[:0:-1]]

    assert found == [*(f"'{text}" for text in guarded), *exact]
    assert [row[0] for row in rows(done("export", "--columns", "campaign"))[1:]] == texts


@ON_SQLITE
@pytest.mark.parametrize("path", ["/calls.csv", "/calls.jsonl", "/calls.xlsx"])
def test_nobody_downloads_without_signing_in(client: FlaskClient, writer: Writer, path: str) -> None:
    many_calls(writer, 1)

    answer = client.get(path)

    assert (answer.status_code, answer.location) == (302, f"/?next={path}")
    assert "call-0" not in answer.text


@ON_SQLITE
def test_a_wrong_parameter_is_named(reading: FlaskClient) -> None:
    answer = reading.get("/calls.csv?since=someday")

    assert answer.status_code == 400
    assert "since" in answer.text


def parts_of(client: FlaskClient, path: str) -> tuple[Any, Iterator[bytes]]:
    """An answer whose parts are read one by one."""
    answer = client.get(path, buffered=False)
    return answer, answer.iter_encoded()


def test_a_reader_who_stops_keeps_no_connection_and_no_lock(reading: FlaskClient, app: Flask, writer: Writer) -> None:
    many_calls(writer, 500)

    answer, parts = parts_of(reading, "/calls.csv")
    begun = next(parts)
    pool = app.extensions["reading"]._read_engine.pool  # noqa: SLF001 - the only place that knows
    stored = reading.get(f"/esms/callback/{CALLBACK_TOKEN}?ReferenceId=new&CallStatus=ANSWERED&SendStatus=5")
    in_use = pool.checkedout()
    rest = b"".join(parts)
    answer.close()

    assert begun.startswith(b"reference_id,")
    assert (stored.status_code, in_use) == (200, 0)
    assert len(rows((begun + rest).decode())) == 501


@ON_POSTGRESQL
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_list_that_breaks_off_ends_with_a_line_that_says_so(
    reading: FlaskClient, writer: Writer, database: Database, form: str
) -> None:
    many_calls(writer, 500)
    answer, parts = parts_of(reading, f"/calls.{form}?lang=en")
    begun = next(parts)
    change_by_hand(database, "ALTER TABLE calls RENAME TO gone")

    text = (begun + b"".join(parts)).decode()
    answer.close()
    away = reading.get(f"/calls.{form}?lang=en")

    words = "This list is not complete: the database could not be read any further. Download it again."
    if form == "csv":
        assert len(rows(text)) == 202
        assert rows(text)[-1] == [words]
    else:
        assert json.loads(text.splitlines()[-1]) == {"error": words}
    assert (away.status_code, "Retry-After" in away.headers) == (503, True)


@ON_SQLITE
def test_two_download_at_a_time_and_the_next_has_to_wait(reading: FlaskClient, writer: Writer) -> None:
    many_calls(writer, 100)
    open_ones = [parts_of(reading, "/calls.csv") for _ in range(2)]

    refused = reading.get("/calls.csv?lang=en")
    open_ones[0][0].close()
    taken = reading.get("/calls.csv")
    open_ones[1][0].close()
    reading.head("/calls.csv").close()

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, f"{RETRY_AFTER_SECONDS}")
    assert "Two lists are being downloaded already" in refused.text
    assert [taken.status_code, *(len(rows(reading.get("/calls.csv").text)) for _ in range(3))] == [200, 101, 101, 101]


@ON_SQLITE
def test_a_workbook_has_text_as_text_and_local_times(reading: FlaskClient, writer: Writer) -> None:
    import openpyxl

    writer.register([Registration(reference_id="00123", placed_at=at(0), campaign="=cmd|' /C calc'!A0")], NOW)
    many_calls(writer, 300)

    answer = reading.get("/calls.xlsx?until=2026-11-23T10:00:01Z")

    assert answer.headers["Content-Disposition"].endswith('.xlsx"')
    header, *found = openpyxl.load_workbook(io.BytesIO(answer.data))["calls"].iter_rows()
    names = [cell.value for cell in header]
    assert names == list(COLUMNS)
    cells = {row[0].value: dict(zip(names, row, strict=True)) for row in found}
    assert set(cells) == {"00123", "call-00000"}
    one = cells["00123"]
    assert (one["campaign"].value, one["campaign"].data_type) == ("=cmd|' /C calc'!A0", "s")
    assert one["placed_at"].value == at(0).replace(hour=17, tzinfo=None)


@ON_SQLITE
def test_a_workbook_that_would_be_too_long_is_refused(
    reading: FlaskClient, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openpyxl

    monkeypatch.setattr(downloads, "MOST_IN_A_WORKBOOK", 250)
    many_calls(writer, 251)

    refused = [reading.get("/calls.xlsx?lang=en") for _ in range(3)]
    fits = reading.get("/calls.xlsx?since=2026-11-23T10:00:01Z")

    assert {answer.status_code for answer in refused} == {400}
    assert "at most 250 calls: choose fewer days, or download the CSV" in refused[0].text
    assert openpyxl.load_workbook(io.BytesIO(fits.data))["calls"].max_row == 251
