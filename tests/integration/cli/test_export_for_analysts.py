"""What an export gives to those who read it: DuckDB, pandas and a spreadsheet; reports, and folders of months."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from commands import ON_SQLITE, SET, done, run
from makers import NOW, callback, change_by_hand, lookup
from pyarrow.parquet import read_table

from webapp.calls.rule import Registration
from webapp.storage import months, parquet
from webapp.storage.exports import COLUMNS, EXPORTED_REPORT_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

pytestmark = SET
FORMULA = "=cmd|' /C calc'!A0"


@pytest.fixture
def two_months(writer: Writer) -> None:
    """Five calls: two of October, two of November by the clocks of Ha Noi, one of November that is missing."""
    placed = {
        "00123": datetime(2026, 10, 5, 3, tzinfo=UTC),
        "october": datetime(2026, 10, 31, 16, 59, 59, tzinfo=UTC),
        "november": datetime(2026, 10, 31, 17, tzinfo=UTC),
        "formula": datetime(2026, 11, 3, tzinfo=UTC),
        "missing": datetime(2026, 11, 23, tzinfo=UTC),
    }
    named = {"00123": "Đà Nẵng, Tết", "formula": FORMULA}
    writer.register(
        [
            Registration(reference_id=one, placed_at=at, campaign=named.get(one), phone="0901888484")
            for one, at in placed.items()
        ],
        NOW,
    )
    said = {"call_status": "ANSWERED", "call_duration": 13, "price": Decimal("450.5"), "ivr": "007"}
    writer.record([callback("00123", 1, **said)], NOW)
    writer.record([callback("00123", 2, **said | {"call_duration": 14}), lookup("00123", 3, **said)], NOW)
    for place, one in enumerate(("october", "november", "formula")):
        writer.record([callback(one, 10 + place, call_status="NOANSWERED", cid=FORMULA)], NOW)


def rows_of(form: str, file: Path) -> list[dict[str, Any]]:
    """The rows of a file, read by DuckDB."""
    import duckdb

    readers = {"csv": "read_csv", "jsonl": "read_json", "parquet": "read_parquet"}
    options = ", all_varchar = true" if form == "csv" else ""
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT * FROM {readers[form]}('{file}'{options})")  # noqa: S608
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@pytest.mark.usefixtures("two_months")
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_duckdb_reads_what_was_exported(form: str, tmp_path: Path) -> None:
    file = tmp_path / f"calls.{form}"
    done("export", "--format", form, "--output", file)

    first, second, *others = rows_of(form, file)

    assert list(first) == list(COLUMNS)
    assert len(others) == 3
    assert (first["reference_id"], first["campaign"], first["ivr"]) == ("00123", "Đà Nẵng, Tết", "007")
    assert (second["ivr"], second["price"], second["call_duration"]) == (None, None, None)
    assert others[1]["campaign"] == FORMULA
    if form == "parquet":
        assert (first["price"], first["call_duration"], first["conflict"]) == (Decimal("450.5000"), 13, False)
        assert first["placed_at"].astimezone(UTC) == datetime(2026, 10, 5, 3, tzinfo=UTC)
    else:
        assert (str(first["price"]), str(first["call_duration"])) == ("450.5000", "13")


@pytest.mark.usefixtures("two_months")
def test_pandas_reads_what_was_exported(tmp_path: Path) -> None:
    import pandas as pd

    files = {form: tmp_path / f"calls.{form}" for form in ("csv", "jsonl", "parquet")}
    for form, file in files.items():
        done("export", "--format", form, "--output", file)

    typed = pd.read_parquet(files["parquet"])
    as_text = pd.read_csv(files["csv"], dtype=str)
    lines = pd.read_json(files["jsonl"], lines=True, dtype=False)

    for found in (typed, as_text, lines):
        assert list(found.columns) == list(COLUMNS)
        assert found["reference_id"].tolist() == ["00123", "october", "november", "formula", "missing"]
        assert found["campaign"].isna().tolist() == [False, True, True, False, True]
        assert found["phone"].tolist() == ["0901888484"] * 5
    assert typed["placed_at"].dt.tz_convert("Asia/Ho_Chi_Minh").dt.month.tolist() == [10, 10, 11, 11, 11]
    assert typed["price"].sum() == Decimal("450.5000")


@pytest.mark.usefixtures("two_months")
@pytest.mark.parametrize("of", ["calls", "reports"])
def test_a_spreadsheet_reads_text_as_text_and_no_formula(of: str) -> None:
    import openpyxl

    result = run("export", "--excel", *(["--reports"] if of == "reports" else []))

    book = openpyxl.load_workbook(io.BytesIO(result.stdout_bytes))
    header, *rows = book[of].iter_rows()
    names = [cell.value for cell in header]
    assert names == list(COLUMNS if of == "calls" else EXPORTED_REPORT_COLUMNS)
    first = dict(zip(names, rows[0], strict=True))
    assert (first["reference_id"].value, first["ivr"].value, first["price"].value) == ("00123", "007", 450.5)
    cells = [cell for row in rows for cell in row]
    assert {cell.data_type for cell in cells} <= {"s", "n", "b", "d"}
    assert [cell.data_type for cell in cells if cell.value == FORMULA] == ["s"] * (4 if of == "calls" else 3)


@pytest.mark.usefixtures("two_months")
def test_reports_are_the_whole_history_of_the_wanted_calls_in_their_order(reader: Any, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in done("export", "--reports", "--format", "jsonl").splitlines()]
    of_one = done("export", "--reports", "--campaign", "Đà Nẵng, Tết", "--columns", "source,call_duration,effect")
    file = tmp_path / "reports.parquet"
    exported = run("export", "--reports", "--format", "parquet", "--output", file)

    ids = ["00123", "00123", "00123", "october", "november", "formula"]
    assert [line["reference_id"] for line in lines] == ids
    assert lines[:3] == reader.call("00123")["reports"]
    assert of_one.splitlines() == [
        "source,call_duration,effect",
        "callback,13,settled",
        "callback,14,conflict",
        "lookup,13,corrected",
    ]
    assert f"6 reports written to {file}" in exported.stderr
    table = read_table(file)
    assert table.column_names == list(EXPORTED_REPORT_COLUMNS)
    assert table["payload"].to_pylist()[0] == '{"ReferenceId": "00123"}'
    assert len(rows_of("parquet", file)) == 6


@ON_SQLITE
@pytest.mark.usefixtures("two_months")
def test_a_cell_of_a_spreadsheet_ends_where_the_longest_ends(database: Database) -> None:
    import openpyxl

    change_by_hand(database, "UPDATE status_reports SET payload = :payload", payload=json.dumps({"a": "x" * 40_000}))

    result = run("export", "--excel", "--reports", "--columns", "payload")

    book = openpyxl.load_workbook(io.BytesIO(result.stdout_bytes))
    assert {len(str(row[0].value)) for row in book["reports"].iter_rows(min_row=2)} == {32_767}


def tree(folder: Path) -> dict[str, list[str]]:
    """The files under a folder, hidden ones too, each with the ids in it."""
    return {
        str(path.relative_to(folder)): [
            row["reference_id"] for row in read_table(path, partitioning=None).select(["reference_id"]).to_pylist()
        ]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


OCTOBER, NOVEMBER = "local_month=2026-10/calls.parquet", "local_month=2026-11/calls.parquet"
BOTH = {OCTOBER: ["00123", "october"], NOVEMBER: ["november", "formula", "missing"]}


@pytest.mark.usefixtures("two_months")
def test_a_folder_has_a_file_for_each_local_month_that_duckdb_and_pandas_read_as_one(tmp_path: Path) -> None:
    import duckdb
    import pandas as pd

    folder = tmp_path / "lake"

    result = run("export", "--by-month", "--output", folder)
    reports = run("export", "--by-month", "--reports", "--output", tmp_path / "reports")

    assert (result.exit_code, result.stdout) == (0, "")
    assert f"5 calls written to {folder}: 2 months of Asia/Ho_Chi_Minh" in result.stderr
    assert tree(folder) == BOTH
    one = run("export", "--by-month", "--since", "2026-11-01", "--output", tmp_path / "november")
    assert f"{tmp_path / 'november'}: 1 month of Asia/Ho_Chi_Minh" in one.stderr
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT local_month, count(*), count(price), any_value(typeof(price)), any_value(typeof(placed_at))"  # noqa: S608
            f" FROM read_parquet('{folder}/*/*.parquet', hive_partitioning = true) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert found == [
        ("2026-10", 2, 1, "DECIMAL(14,4)", "TIMESTAMP WITH TIME ZONE"),
        ("2026-11", 3, 0, "DECIMAL(14,4)", "TIMESTAMP WITH TIME ZONE"),
    ]
    assert pd.read_parquet(folder).groupby("local_month", observed=True).size().tolist() == [2, 3]
    assert "6 reports written" in reports.stderr
    assert [len(ids) for ids in tree(tmp_path / "reports").values()] == [4, 2]


@ON_SQLITE
@pytest.mark.usefixtures("two_months")
def test_a_repeated_run_replaces_the_months_that_it_is_about_and_no_others(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    folder.mkdir()
    done("export", "--format", "parquet", "--output", folder)
    change_by_hand(
        database,
        "UPDATE calls SET placed_at = '2026-12-01T00:00:00.000000Z' WHERE reference_id IN ('formula', 'missing')",
    )

    done("export", "--by-month", "--since", "2026-12-01", "--output", folder)
    december = tree(folder)
    done("export", "--by-month", "--until", "2026-12-01", "--output", folder)
    whole = tree(folder)
    done("export", "--by-month", "--output", folder)

    new = "local_month=2026-12/calls.parquet"
    assert {name: sorted(ids) for name, ids in december.items()} == {
        **{name: sorted(ids) for name, ids in BOTH.items()},
        new: ["formula", "missing"],
    }
    # The month has no calls any more but the one at its first moment.
    assert whole[NOVEMBER] == ["november"]
    assert tree(folder) == whole


@ON_SQLITE
@pytest.mark.usefixtures("two_months")
def test_a_month_without_calls_goes(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    done("export", "--by-month", "--output", folder)
    change_by_hand(database, "DELETE FROM calls WHERE placed_at >= '2026-10-31T17'")

    done("export", "--by-month", "--until", "2026-11-01", "--output", folder)
    kept = tree(folder)
    done("export", "--by-month", "--since", "2026-11-01", "--output", folder)

    assert kept == BOTH
    assert tree(folder) == {OCTOBER: BOTH[OCTOBER]}
    assert [path.name for path in folder.iterdir()] == ["local_month=2026-10"]


@ON_SQLITE
@pytest.mark.usefixtures("two_months")
def test_a_run_that_breaks_off_leaves_every_month_as_it_was(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    folder, empty = tmp_path / "lake", tmp_path / "empty"
    done("export", "--by-month", "--output", folder)
    change_by_hand(database, "UPDATE calls SET campaign = 'new'")
    content = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    write_as, written = parquet.write_as, []

    def fail_at_the_second(rows: Any, target: Any, schema: Any) -> None:
        write_as(rows, target, schema)
        written.append(target.name)
        if len(written) % 2 == 0:
            raise OSError(28, "No space left on device", target.name)

    with monkeypatch.context() as full:
        full.setattr(parquet, "write_as", fail_at_the_second)
        failed = [run("export", "--by-month", "--output", one) for one in (folder, empty)]
    # As a run leaves it that was killed.
    (folder / "local_month=2026-10/calls.parquet.x1y2.unfinished").write_bytes(b"PAR1")
    with duckdb.connect() as connection:
        seen = connection.execute(f"SELECT count(*) FROM read_parquet('{folder}/**/*.parquet')").fetchall()  # noqa: S608
    done("export", "--by-month", "--output", folder)

    assert [(result.exit_code, result.stdout) for result in failed] == [(1, "")] * 2
    assert all("No space left on device" in result.stderr for result in failed)
    assert list(empty.iterdir()) == []
    assert seen == [(5,)]
    assert all(content[path] != path.read_bytes() for path in content)
    assert tree(folder) == BOTH


@ON_SQLITE
@pytest.mark.usefixtures("two_months")
def test_a_folder_with_anything_else_is_refused_and_nothing_in_it_touched(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    done("export", "--by-month", "--output", folder)
    foreign = [folder / "notes.txt", folder / "local_month=2026-10/theirs.parquet", folder / "year=2026"]
    for place in foreign:
        if place.suffix:
            place.write_text("mine")
        else:
            place.mkdir()
        result = run("export", "--by-month", "--output", folder)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{place} is not of such an export" in " ".join(result.stderr.split())
        place.unlink() if place.suffix else place.rmdir()
    (folder / OCTOBER).write_text("no Parquet")

    broken = run("export", "--by-month", "--output", folder)

    assert "is not of such an export" in " ".join(broken.stderr.split())
    assert (folder / OCTOBER).read_text() == "no Parquet"


@ON_SQLITE
@pytest.mark.usefixtures("two_months")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--campaign", "june"], "holds an export with other columns, filters or time zone"),
        (["--outcome", "answered"], "holds an export with other columns, filters or time zone"),
        (["--columns", "reference_id"], "holds an export with other columns, filters or time zone"),
        (["--reports"], "is not of such an export"),
        (["--since", "2026-11-15"], "is not the beginning of a month in Asia/Ho_Chi_Minh"),
        (["--until", "2026-11-01 00:00:01"], "give 2026-11-01, or none"),
        (["--format", "csv"], "--by-month is for Parquet"),
        (["--excel"], "--by-month is for Parquet"),
    ],
)
def test_a_run_that_would_leave_a_part_of_a_month_is_refused(options: list[str], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    done("export", "--by-month", "--output", folder)

    result = run("export", "--by-month", *options, "--output", folder)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert tree(folder) == BOTH


@ON_SQLITE
@pytest.mark.usefixtures("two_months")
def test_a_folder_is_no_file_of_another_format_and_one_run_writes_to_it_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lake"
    done("export", "--by-month", "--output", folder)
    meanwhile: list[Result] = []
    drafts = months.MonthsFolder._write_drafts  # noqa: SLF001 - another run begins in the midst of this one

    def write_drafts(self: months.MonthsFolder, *arguments: Any) -> None:
        if not meanwhile:
            meanwhile.append(run("export", "--by-month", "--output", folder))
        drafts(self, *arguments)

    monkeypatch.setattr(months.MonthsFolder, "_write_drafts", write_drafts)
    as_csv, nowhere = run("export", "--output", folder), run("export", "--by-month")
    done("export", "--by-month", "--output", folder)

    assert as_csv.exit_code == 2
    assert "is a directory: name a file, or write Parquet" in " ".join(as_csv.stderr.split())
    assert (nowhere.exit_code, nowhere.stdout) == (2, "")
    assert meanwhile[0].exit_code == 2
    assert "another export writes to this folder now" in " ".join(meanwhile[0].stderr.split())
    assert tree(folder) == BOTH


def test_the_first_and_last_days_of_all_times_are_in_a_month(writer: Writer, tmp_path: Path) -> None:
    early, late = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    writer.register([Registration(reference_id=f"{at.year}", placed_at=at) for at in (early, late)], NOW)

    done("export", "--by-month", "--output", tmp_path / "lake")

    assert sorted(tree(tmp_path / "lake")) == [
        "local_month=0001-01/calls.parquet",
        "local_month=9999-12/calls.parquet",
    ]
