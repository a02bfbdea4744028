"""The command export: every format, to standard output and to files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from makers import NOW, at, callback
from pyarrow import BufferReader
from pyarrow.parquet import ParquetFile, read_table
from running import COMMAND

from webapp import storage
from webapp.calls.rule import Registration
from webapp.storage import parquet
from webapp.storage.models import calls
from webapp.storage.types import plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

from commands import CONTROL, ON_POSTGRESQL, ON_SQLITE, SET, a_terminal, done, many_calls, run


@ON_SQLITE
@SET
@pytest.mark.parametrize(("form", "beginning"), [("csv", b"refe"), ("jsonl", b'{"re'), ("parquet", b"PAR1")])
def test_an_export_ends_silently_when_its_reader_closes_the_pipe(writer: Writer, form: str, beginning: bytes) -> None:
    many_calls(writer, 25_000)
    command = [COMMAND, "export", "--format", form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout
        assert export.stderr
        assert export.stdout.read(4) == beginning
        export.stdout.close()
        printed = export.stderr.read()

    assert (export.returncode, re.sub(rb"exporting: .*\n", b"", printed)) == (1, b"")


def some_calls(writer: Writer) -> None:
    writer.register([Registration(reference_id="a", campaign='Tết,\n"sớm"', placed_at=at(0))], NOW)
    writer.record([callback("b", 10, call_status="ANSWERED", call_duration=13, price=450, ivr="007")], at(11))
    writer.record([callback("c", 20, call_status="BUSY"), callback("c", 21, call_status="ANSWERED")], at(21))


@SET
def test_an_export_as_csv_has_every_column_and_leaves_unknown_values_empty(writer: Writer, reader: Reader) -> None:
    some_calls(writer)

    printed = done("export")

    rows = list(csv.DictReader(io.StringIO(printed, newline="")))
    assert printed.splitlines()[0] == ",".join(calls.columns.keys())
    assert [row["reference_id"] for row in rows] == ["a", "b", "c"]
    assert (rows[0]["campaign"], rows[0]["call_status"], rows[0]["price"]) == ('Tết,\n"sớm"', "", "")
    assert (rows[1]["price"], rows[1]["ivr"], rows[1]["call_duration"]) == ("450.0000", "007", "13")
    assert (rows[1]["placed_at"], rows[1]["conflict"], rows[2]["conflict"]) == (
        "2026-11-23T10:00:10.000000Z",
        "false",
        "true",
    )
    for row, call in zip(rows, reader.export(), strict=True):
        written = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in call.items()}
        assert row == {name: "" if value == "None" else value for name, value in written.items()}


@SET
def test_an_export_as_json_lines_is_what_the_api_shows(writer: Writer, reader: Reader) -> None:
    some_calls(writer)

    printed = done("export", "--format", "jsonl")

    assert [json.loads(line) for line in printed.splitlines()] == list(reader.export())
    assert "Tết" in printed


@SET
def test_an_export_as_parquet_is_the_same_with_types_and_the_columns_comments(
    writer: Writer, reader: Reader, tmp_path: Path
) -> None:
    some_calls(writer)

    result = run("export", "--format", "parquet", "--output", tmp_path / "calls.parquet")

    assert f"3 calls written to {tmp_path}/calls.parquet" in result.stderr
    table = read_table(tmp_path / "calls.parquet")
    assert table.column_names == list(calls.columns.keys())
    assert [{name: plain(value) for name, value in row.items()} for row in table.to_pylist()] == list(reader.export())
    one = table.to_pylist()[1]
    assert (one["price"], one["placed_at"], one["ivr"]) == (Decimal("450.0000"), at(10), "007")
    assert table.schema.field("price").metadata[b"comment"].decode() == calls.c.price.comment


@ON_SQLITE
@SET
def test_an_export_as_parquet_of_no_calls_has_the_columns_all_the_same(tmp_path: Path) -> None:
    done("export", "--format", "parquet", "--output", tmp_path / "calls.parquet")

    table = read_table(tmp_path / "calls.parquet")
    assert (table.num_rows, table.column_names) == (0, list(calls.columns.keys()))


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
    with a_terminal() as (screen, shown_until_its_end):
        result = subprocess.run([COMMAND, "export", "--format", "parquet"], check=False, stdout=screen)
        shown = shown_until_its_end()

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


@SET
def test_an_export_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = run("export", "--output", tmp_path / "nowhere/calls.csv")

    assert result.exit_code == 1
    assert f"{tmp_path}/nowhere/calls.csv': No such file or directory" in result.stderr


@ON_SQLITE
@SET
def test_no_bar_is_drawn_over_calls_that_go_to_the_same_terminal(writer: Writer) -> None:
    many_calls(writer, 3)
    with a_terminal() as (screen, end):
        subprocess.run([COMMAND, "export"], stdin=subprocess.DEVNULL, stdout=screen, stderr=screen, check=True)
        shown = end()

    assert shown.count("\r\n") == 4
    assert "exporting" not in shown
    assert CONTROL.search(shown.replace("\r\n", "")) is None
