"""The command export: every format, to standard output and to files."""

from __future__ import annotations

import csv
import errno
import fcntl
import gc
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import unicodedata
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from makers import NOW, at, callback, change_by_hand
from pyarrow import BufferReader
from pyarrow.parquet import ParquetFile, read_table
from running import COMMAND, Program

from webapp import storage
from webapp.calls.rule import Registration
from webapp.storage import excel, parquet
from webapp.storage.exports import ALL_COLUMNS, COLUMNS, INTERNAL_COLUMNS
from webapp.storage.filters import EVERY_CALL
from webapp.storage.models import calls
from webapp.storage.types import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

from commands import CONTROL, ON_POSTGRESQL, ON_SQLITE, SET, done, many_calls, run, run_on_a_terminal


@ON_SQLITE
@SET
@pytest.mark.parametrize(
    ("form", "beginning", "number"),
    [("csv", b"refe", 1000), ("jsonl", b'{"re', 1000), ("parquet", b"PAR1", 1000)],
)
def test_an_export_ends_silently_when_its_reader_closes_the_pipe(
    writer: Writer, form: str, beginning: bytes, number: int
) -> None:
    """There are more calls than the pipe takes."""
    many_calls(writer, number)
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    with Program("export", "--format", form, environment={}, stdout=Path(f"/proc/{os.getpid()}/fd/{theirs}")) as export:
        assert os.read(ours, 4) == beginning
        os.close(theirs)
        os.close(ours)
        _, printed = export.communicate(timeout=60)

    assert (export.returncode, re.sub(r"exporting: .*\n", "", printed)) == (1, "")


def some_calls(writer: Writer) -> None:
    writer.register([Registration(reference_id="a", campaign='Tết,\n"sớm"', placed_at=at(0))], NOW)
    writer.record([callback("b", 10, call_status="ANSWERED", call_duration=13, price=450, ivr="007")], at(11))
    writer.record([callback("c", 20, call_status="BUSY"), callback("c", 21, call_status="ANSWERED")], at(21))


@SET
def test_an_export_as_csv_has_every_column_and_leaves_unknown_values_empty(writer: Writer, reader: Reader) -> None:
    some_calls(writer)

    printed = done("export")

    rows = list(csv.DictReader(io.StringIO(printed, newline="")))
    assert printed.splitlines()[0] == ",".join(COLUMNS)
    assert [row["reference_id"] for row in rows] == ["a", "b", "c"]
    assert (rows[0]["campaign"], rows[0]["call_status"], rows[0]["price"]) == ('Tết,\n"sớm"', "", "")
    assert (rows[1]["price"], rows[1]["ivr"], rows[1]["call_duration"]) == ("450.0000", "007", "13")
    assert (rows[1]["placed_at"], rows[1]["conflict"], rows[2]["conflict"]) == (
        "2026-11-23T10:00:10.000000Z",
        "false",
        "true",
    )
    for row, call in zip(rows, reader.export(columns=COLUMNS), strict=True):
        written = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in call.items()}
        assert row == {name: "" if value == "None" else value for name, value in written.items()}


@SET
def test_an_export_as_json_lines_is_what_the_api_shows(writer: Writer, reader: Reader) -> None:
    some_calls(writer)

    printed = done("export", "--format", "jsonl")

    assert [json.loads(line) for line in printed.splitlines()] == list(reader.export(columns=COLUMNS))
    assert "Tết" in printed


@SET
def test_an_export_as_parquet_is_the_same_with_types_and_the_columns_comments(
    writer: Writer, reader: Reader, tmp_path: Path
) -> None:
    some_calls(writer)

    result = run("export", "--format", "parquet", "--output", tmp_path / "calls.parquet")

    assert f"3 calls written to {tmp_path}/calls.parquet" in result.stderr
    table = read_table(tmp_path / "calls.parquet")
    assert table.column_names == list(COLUMNS)
    shown = list(reader.export(columns=COLUMNS))
    assert [{name: plain(value) for name, value in row.items()} for row in table.to_pylist()] == shown
    one = table.to_pylist()[1]
    assert (one["price"], one["placed_at"], one["ivr"]) == (Decimal("450.0000"), at(10), "007")
    assert table.schema.field("price").metadata[b"comment"].decode() == calls.c.price.comment


@ON_SQLITE
@SET
def test_an_export_as_parquet_of_no_calls_has_the_columns_all_the_same(tmp_path: Path) -> None:
    done("export", "--format", "parquet", "--output", tmp_path / "calls.parquet")

    table = read_table(tmp_path / "calls.parquet")
    assert (table.num_rows, table.column_names) == (0, list(COLUMNS))


@ON_SQLITE
@SET
def test_parquet_export_to_standard_output_is_written_group_by_group(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROW_GROUP", 1100)
    many_calls(writer, 2500)

    result = run("export", "--format", "parquet")

    file = ParquetFile(BufferReader(result.stdout_bytes))
    assert [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)] == [1100, 1100, 300]
    assert file.read(["reference_id"]).column(0).to_pylist() == [f"call-{place:05}" for place in range(2500)]


@ON_SQLITE
@SET
def test_no_parquet_is_shown_on_a_terminal() -> None:
    result, shown = run_on_a_terminal("export", "--format", "parquet", shown="output")

    assert (result.returncode, shown) == (2, "")


@ON_SQLITE
@SET
def test_without_pyarrow_an_export_as_parquet_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "webapp.storage.parquet")
    monkeypatch.delattr(storage, "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    result = run("export", "--format", "parquet", "--output", tmp_path / "calls.parquet")

    assert result.exit_code == 2
    assert "pip install 'esms-calls[parquet]'" in result.stderr
    assert not (tmp_path / "calls.parquet").exists()
    assert done("export").startswith("reference_id,")


@ON_SQLITE
@SET
def test_export_is_utf_8_in_every_locale(writer: Writer) -> None:
    some_calls(writer)

    result = subprocess.run(
        [COMMAND, "export"],
        capture_output=True,
        check=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )

    assert "Tết" in result.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["a", "b", "c"]),
        (["--since", "2026-11-23T10:00:10Z"], ["b", "c"]),
        (["--until", "2026-11-23T10:00:10Z"], ["a"]),
        (["--since", "2026-11-23T17:00:10", "--until", "2026-11-23 17:00:20"], ["b"]),
        (["--since", "2026-11-24"], []),
        (["--since", "2026-11-23", "--until", "2026-11-24"], ["a", "b", "c"]),
    ],
)
@SET
def test_an_export_is_of_the_calls_placed_in_a_time_given_in_the_zone_that_is_set(
    writer: Writer, options: list[str], names: list[str]
) -> None:
    some_calls(writer)

    printed = done("export", "--format", "jsonl", *options)

    assert [json.loads(line)["reference_id"] for line in printed.splitlines()] == names


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@SET
def test_an_export_to_a_file_writes_the_same_and_nothing_to_standard_output(
    writer: Writer, tmp_path: Path, form: str
) -> None:
    some_calls(writer)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "calls").write_text("the old one")
    (folder / "link").symlink_to("calls")

    result = run("export", "--format", form, "--output", folder / "link")

    assert (result.exit_code, result.stdout) == (0, "")
    assert f"3 calls written to {folder}/link" in result.stderr
    assert (folder / "calls").read_bytes().decode() == done("export", "--format", form, "--output", "-")
    assert (folder / "link").is_symlink()
    assert {path.name for path in folder.iterdir()} == {"calls", "link"}


HOSTILE = 'one\rtwo\nthree\r\n"four", \x1b[2J\u202e'


@SET
def test_every_call_is_one_row_of_the_csv_whatever_its_values_hold(writer: Writer, database: Database) -> None:
    some_calls(writer)
    change_by_hand(database, "UPDATE calls SET campaign = :campaign, cid = :cid", campaign=HOSTILE, cid="a\rb")

    printed = run("export", "--columns", "reference_id,campaign,cid").stdout_bytes.decode()

    rows = list(csv.reader(io.StringIO(printed, newline="")))
    assert rows == [["reference_id", "campaign", "cid"], *([name, HOSTILE, "a\rb"] for name in "abc")]
    # Each bare carriage return is quoted, and each row ends with a line feed alone.
    assert re.sub(r'"(?:[^"]|"")*"', "", printed) == "reference_id,campaign,cid\na,,\nb,,\nc,,\n"


@SET
def test_an_export_has_what_only_the_program_needs_when_it_is_asked_for(writer: Writer) -> None:
    some_calls(writer)

    usual, whole = (done("export", *options).splitlines()[0].split(",") for options in ([], ["--all-columns"]))

    assert whole == list(calls.columns.keys()) == list(ALL_COLUMNS)
    assert usual == [name for name in whole if name not in INTERNAL_COLUMNS]
    assert {"registered_fields", "confirmed_fields", "lookup_backoff", "claimed_until"} == set(INTERNAL_COLUMNS)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@SET
def test_an_export_has_the_columns_that_are_chosen_in_their_order(writer: Writer, form: str, tmp_path: Path) -> None:
    some_calls(writer)
    file = tmp_path / "calls"

    run("export", "--format", form, "--columns", " Price, reference_id,claimed_until ,price", "--output", file)

    content = file.read_bytes()
    if form == "parquet":
        names = read_table(file).column_names
    else:
        first = content.decode().splitlines()[0]
        names = list(json.loads(first)) if form == "jsonl" else first.split(",")
    assert names == ["price", "reference_id", "claimed_until"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--campaign", "june"], ["a", "b"]),
        (["--campaign", unicodedata.normalize("NFD", "Đà Nẵng")], ["c"]),
        (["--campaign", "JUNE"], []),
        (["--outcome", "answered"], ["b", "c"]),
        (["--outcome", "missing", "--outcome", "Answered", "--campaign", "june"], ["a", "b"]),
        (["--outcome", "missing, given_up,other"], ["a"]),
        (["--outcome", "missing,answered", "--campaign", "june", "--since", "2026-11-23T10:00:10Z"], ["b"]),
        (["--since", "23/11/2026", "--until", "23/11/2026 17:00:10"], ["a"]),
        (["--since", "today"], []),
    ],
)
@SET
def test_an_export_is_of_the_calls_that_are_wanted(writer: Writer, options: list[str], names: list[str]) -> None:
    some_calls(writer)
    named = {"a": "june", "b": "june", "c": unicodedata.normalize("NFC", "Đà Nẵng")}
    times = {"a": 0, "b": 10, "c": 20}
    writer.register([Registration(reference_id=n, campaign=c, placed_at=at(times[n])) for n, c in named.items()], NOW)

    printed = done("export", "--format", "jsonl", "--columns", "reference_id", *options)

    assert [json.loads(line)["reference_id"] for line in printed.splitlines()] == names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--columns", "reference_id,campain"], "'campain' is none of"),
        (["--columns", "reference_id,campain"], "(do you mean campaign?)"),
        (["--columns", " ,"], "names no column"),
        (["--outcome", "unansered"], "(do you mean unanswered?)"),
        (["--outcome", "NOANSWERED"], "is none of given_up, missing, answered"),
        (["--columns", "price", "--all-columns"], "--columns and --all-columns do not go together"),
        (["--excel", "--format", "csv"], "--excel is a format of its own"),
        (["--excel", "--output", "calls.csv"], "only if its name ends with .xlsx"),
    ],
)
@ON_SQLITE
@SET
def test_an_export_of_what_is_not_there_is_refused(options: list[str], words: str, tmp_path: Path) -> None:
    result = run("export", *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "calls.csv").exists()


# For Excel


def workbook(*options: object) -> list[list[tuple[Any, ...]]]:
    """The rows of each sheet of the workbook on standard output, read by another library than writes it."""
    import openpyxl

    result = run("export", "--excel", *options)
    assert result.exit_code == 0, result.stderr
    book = openpyxl.load_workbook(io.BytesIO(result.stdout_bytes))
    return [list(sheet.iter_rows()) for sheet in book.worksheets]


FORMULAS = ["=1+1", "+84901888484", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://example.vn")', "{=1}"]


@SET
def test_excel_is_given_text_as_text_and_nothing_as_a_formula(writer: Writer, database: Database) -> None:
    from openpyxl.utils.escape import unescape

    ids = ["12345678901234567890", "1e5", "00123", "3-4", *(f"f-{place}" for place in range(len(FORMULAS)))]
    writer.register([Registration(reference_id=one, placed_at=at(place)) for place, one in enumerate(ids)], NOW)
    texts = ["Đà Nẵng, Tết", "0901888484", "02871002454", "https://example.vn", *FORMULAS]
    for one, campaign in zip(ids, texts, strict=True):
        values = {"one": one, "campaign": campaign}
        change_by_hand(
            database, "UPDATE calls SET campaign = :campaign, ivr = '007' WHERE reference_id = :one", **values
        )

    (sheet,) = workbook("--columns", "reference_id,campaign,ivr")

    header, *rows = sheet
    assert [cell.value for cell in header] == ["reference_id", "campaign", "ivr"]
    assert [[unescape(cell.value) for cell in row] for row in rows] == [
        [one, campaign, "007"] for one, campaign in zip(ids, texts, strict=True)
    ]
    assert {(cell.data_type, cell.number_format, cell.hyperlink) for row in rows for cell in row} == {("s", "@", None)}


def at_a_clock(hour: int) -> datetime:
    """The time of call b, as a clock shows it that is at this hour."""
    return at(10).replace(hour=hour, tzinfo=None)


@SET
def test_excel_is_given_local_times_numbers_and_truth_values(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    some_calls(writer)
    early, late = datetime(1899, 12, 31, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)
    extremes = {"d": early, "e": late}
    writer.register([Registration(reference_id=name, placed_at=time) for name, time in extremes.items()], NOW)
    columns = ("--columns", "reference_id,placed_at,price,call_duration,conflict,settled_at")

    (sheet,) = workbook(*columns)
    monkeypatch.setenv("TIME_ZONE", "UTC")
    (in_utc,) = workbook(*columns)

    rows = {row[0].value: row[1:] for row in sheet[1:]}
    assert [cell.value for cell in rows["b"]][:4] == [at_a_clock(17), 450, 13, False]
    assert [cell.value for cell in rows["c"]][1:4] == [None, None, True]
    assert rows["b"][0].number_format == "dd/mm/yyyy hh:mm:ss"
    assert [cell.data_type for cell in rows["b"]] == ["d", "n", "n", "b", "d"]
    assert [cell.value for cell in rows["a"]][1:3] == [None, None]
    # Times that Excel does not have stay text.
    assert [rows[name][0].value for name in extremes] == [plain(time) for time in extremes.values()]
    assert {row[0].value: row[1].value for row in in_utc}["b"] == at_a_clock(10)


@ON_SQLITE
@SET
def test_excel_is_given_further_sheets_for_further_calls(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel, "ROWS", 100)
    many_calls(writer, 250)

    sheets = workbook("--columns", "reference_id")

    assert [len(sheet) for sheet in sheets] == [100, 100, 53]
    assert [row[0].value for sheet in sheets for row in sheet[1:]] == [f"call-{place:05}" for place in range(250)]
    assert {sheet[0][0].value for sheet in sheets} == {"reference_id"}


@ON_SQLITE
@SET
def test_a_workbook_is_written_whole_or_not_at_all_and_leaves_nothing_behind(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openpyxl

    many_calls(writer, 1500)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    file = tmp_path / "out/calls.xlsx"
    file.parent.mkdir()

    with files_of_at_most(30_000):
        failed = run("export", "--excel", "--output", file)
    left = list(file.parent.iterdir())
    written = run("export", "--excel", "--output", file)

    assert (failed.exit_code, failed.stdout, left) == (1, "", [])
    assert "This is a bug" not in failed.stderr
    assert (written.exit_code, written.stdout) == (0, "")
    assert f"1500 calls written to {file}" in written.stderr
    assert openpyxl.load_workbook(file)["calls"].max_row == 1501
    assert list(temporary.iterdir()) == []


@ON_SQLITE
@SET
def test_no_workbook_is_shown_on_a_terminal() -> None:
    result, shown = run_on_a_terminal("export", "--excel", shown="output")

    assert (result.returncode, shown) == (2, "")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@ON_SQLITE
@SET
def test_on_a_terminal_an_export_shows_what_cannot_be_seen(writer: Writer, database: Database, form: str) -> None:
    some_calls(writer)
    change_by_hand(database, "UPDATE calls SET campaign = :campaign", campaign="Tết \x1b[2J\x9b\u202e\x7f")
    result, printed = run_on_a_terminal("export", "--format", form, shown="output")
    shown = printed.replace("\r\n", "\n")

    assert result.returncode == 0
    assert CONTROL.search(shown) is None
    assert "\u202e" not in shown
    assert "Tết " in shown
    if form == "jsonl":
        assert json.loads(shown.splitlines()[0])["campaign"] == "Tết \x1b[2J\x9b\u202e\x7f"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: writing a file further than that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("before", [None, "the old one"])
@ON_POSTGRESQL
@SET
def test_an_export_that_fails_half_way_leaves_the_file_as_it_was(
    writer: Writer, tmp_path: Path, before: str | None
) -> None:
    many_calls(writer, 1500)
    folder = tmp_path / "out"
    folder.mkdir()
    if before:
        (folder / "calls.csv").write_text(before)

    with files_of_at_most(100_000):
        result = run("export", "--output", folder / "calls.csv")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: File too large: input or output" in result.stderr
    assert "written" not in result.stderr
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == ([("calls.csv", before)] if before else [])


@SET
def test_an_export_to_a_device_or_a_pipe_is_written_as_it_is(writer: Writer, tmp_path: Path) -> None:
    some_calls(writer)
    fifo, printed = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reading = threading.Thread(target=lambda: printed.append(fifo.read_text("utf-8")))
    reading.start()

    assert done("export", "--output", fifo) == ""
    reading.join()
    full = run("export", "--output", "/dev/full")

    assert printed == [done("export")]
    assert fifo.is_fifo()
    assert (full.exit_code, full.stdout) == (1, "")
    assert "Error: No space left on device" in full.stderr


class FullDisk(io.BytesIO):
    """A file that takes only this many bytes; one without positions is a pipe."""

    def __init__(self, capacity: int, *, positions: bool) -> None:
        super().__init__()
        self._capacity = capacity
        self._positions = positions

    def tell(self) -> int:
        if not self._positions:
            raise OSError(errno.ESPIPE, "Illegal seek")
        return super().tell()

    def write(self, content: Any) -> int:
        self._capacity -= len(content)
        if self._capacity < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


@ON_SQLITE
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("capacity", [0, 100, 2000, 5000])
def test_a_workbook_that_cannot_be_written_raises_once(
    writer: Writer,
    reader: Reader,
    capacity: int,
    positions: bool,  # noqa: FBT001
) -> None:
    some_calls(writer)
    rows = list(reader.export(EVERY_CALL, COLUMNS))
    columns = [calls.columns[name] for name in COLUMNS]
    target = FullDisk(capacity, positions=positions)
    later: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", later.append)
        with pytest.raises(OSError, match="No space left on device"):
            excel.write(rows, target, columns=columns, zone=ZoneInfo("UTC"))
        gc.collect()

    assert later == []


@SET
def test_an_export_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = run("export", "--output", tmp_path / "nowhere/calls.csv")

    assert result.exit_code == 1
    assert f"{tmp_path}/nowhere/calls.csv': No such file or directory" in result.stderr


@ON_SQLITE
@SET
def test_no_bar_is_drawn_over_calls_that_go_to_the_same_terminal(writer: Writer) -> None:
    many_calls(writer, 3)
    result, shown = run_on_a_terminal("export")

    assert result.returncode == 0
    assert shown.count("\r\n") == 4
    assert "exporting" not in shown
    assert CONTROL.search(shown.replace("\r\n", "")) is None
