"""The commands: what each prints and leaves behind, what it says when something is wrong, and its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result
from makers import NOW, at, callback, change_by_hand, lookup, refuse, stored_call, stored_reports
from pyarrow import BufferReader
from pyarrow.parquet import ParquetFile, read_table
from running import COMMAND, esms_calls, free_port

from webapp import storage
from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Spool
from webapp.calls.rule import Registration
from webapp.cli.commands import COMMANDS, cli
from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer
from webapp.storage import parquet
from webapp.storage.models import calls
from webapp.storage.rejected import LIMIT_BYTES, Rejected
from webapp.storage.runs import Run
from webapp.storage.types import plain
from webapp.support import progress as terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
SET = pytest.mark.usefixtures("settings")
USES_OF_THE_DATABASE = [
    ["register"],
    ["status"],
    ["status", "--json"],
    ["completeness"],
    ["completeness", "--json", "--by", "day"],
    ["export"],
    ["replay"],
    ["replay", "--check"],
    ["replay", "--rejected"],
]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    """A command in this process; whatever it does, its user sees no traceback."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def done(*arguments: object, stdin: str | bytes = "") -> str:
    """What a command prints that succeeds."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def rejected(query: bytes, *, seconds: float = 0) -> Rejected:
    """A request that was kept."""
    return Rejected(
        id=parameters.new_id(),
        received_at=at(seconds),
        remote_addr="203.0.113.7",
        method="GET",
        content_type=None,
        payload=esms_callback.storable_request(query, b""),
        reason="ReferenceId: is missing",
    )


def many_calls(writer: Writer, number: int) -> None:
    writer.register(
        [Registration(reference_id=f"call-{place:05}", placed_at=at(place)) for place in range(number)], NOW
    )


# What is wrong, in words


@pytest.mark.parametrize(
    "command",
    [*([name] for name in sorted(COMMANDS)), *(["spool", name] for name in ("list", "export", "drain")), []],
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_a_help_that_names_each_option(command: list[str], flag: str) -> None:
    told = done(*command, flag)

    assert told.startswith("Usage: ")
    assert CONTROL.search(told) is None
    assert max(map(len, told.splitlines())) <= 120
    found = cli.get_command(click.Context(cli), command[0]) if command else cli
    assert found
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert all(spelling in told for spelling in parameter.opts)


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"esms-calls, version \d+\.\d+\.\d+\n", done("--version"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage: "),
        (["nonsense"], "No such command 'nonsense'"),
        (["status", "--nonsense"], "--nonsense"),
        (["status", "nonsense"], "nonsense"),
        (["register", "nowhere.csv"], "'nowhere.csv': No such file or directory"),
        (["register", "/"], "'/': Is a directory"),
        (["export", "--format", "xml"], "--format"),
        (["export", "--since", "yesterday"], "'yesterday' is not an ISO 8601 date or time, such as 2026-11-23"),
        (["export", "--until", "0001-01-01"], "lies outside the years that can be stored"),
        (["export", "--output", "/"], "--output"),
        (["completeness", "--by", "week"], "--by"),
        (["completeness", "--by", "day", "--expect", "-"], "--by and --expect do not go together"),
        (["completeness", "--expect", "nowhere.txt"], "'nowhere.txt': No such file or directory"),
        (["completeness", "--since", "yesterday"], "'yesterday' is not an ISO 8601 date or time"),
        (["replay", "--check", "--rejected"], "--check and --rejected do not go together"),
        (["replay", "--since", "2026-11-23"], "--since goes with --rejected"),
        (["serve", "--workers", "0"], "--workers"),
        (["serve", "--bind", "8000"], "'8000' is not HOST:PORT, such as 0.0.0.0:8000"),
        (["serve", "--bind", "127.0.0.1:65536"], "is not HOST:PORT"),
        (["serve", "--bind", "127.0.0.1:http"], "is not HOST:PORT"),
        (["serve", "--bind", "127.0.0.1:٣"], "is not HOST:PORT"),
        (["serve", "--bind", "é..:8000"], "is not HOST:PORT"),
        (["callback-url", "https://calls.example.vn"], "https://calls.example.vn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@ON_SQLITE
@SET
def test_a_usage_that_is_wrong_is_named_with_exit_code_2(arguments: list[str], words: str) -> None:
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


@contextmanager
def unusable(kind: str, tmp_path: Path) -> Iterator[str]:
    """URL of a database that cannot be used."""
    if kind == "nobody listens":
        yield f"postgresql://user:the-password@127.0.0.1:{free_port()}/calls"
    elif kind == "hangs up":
        with socket.create_server(("127.0.0.1", 0)) as server:

            def hang_up() -> None:
                server.accept()[0].close()

            thread = threading.Thread(target=hang_up)
            thread.start()
            yield f"postgresql://user:the-password@127.0.0.1:{server.getsockname()[1]}/calls"
            thread.join()
    elif kind == "no database":
        (tmp_path / "letter.txt").write_text("the-password " * 200)
        yield f"sqlite:///{tmp_path}/letter.txt"


@pytest.mark.parametrize("kind", ["nobody listens", "hangs up", "no database"])
@pytest.mark.parametrize("arguments", [["migrate"], *USES_OF_THE_DATABASE], ids=" ".join)
def test_a_database_that_cannot_be_used_is_exit_code_4(
    kind: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with unusable(kind, tmp_path) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        result = run(*arguments, stdin="a\n")

    assert result.exit_code == 4
    assert (result.stdout == "") == (arguments[0] != "status"), "only status has something to show"
    assert result.stderr.startswith("Error: The database cannot be used: ")
    assert "Check DATABASE_URL and that the database runs." in result.stderr
    assert "the-password" not in result.stderr


@pytest.mark.parametrize("arguments", USES_OF_THE_DATABASE, ids=" ".join)
def test_a_migration_that_is_missing_is_named_with_the_command_that_makes_it(
    arguments: list[str], empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)

    result = run(*arguments, stdin="a\n")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "run `esms-calls migrate`" in result.stderr
    assert not (tmp_path / "calls.db").exists()


FULL_DISK = ["migrate", "callback-url", "status", "export", "register", "--help"]


@ON_SQLITE
@pytest.mark.parametrize("command", FULL_DISK)
@SET
def test_output_that_cannot_be_written_is_named(command: str) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        result = subprocess.run(
            [COMMAND, command], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "Error: No space left on device: input or output"
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@ON_SQLITE
@SET
@pytest.mark.parametrize(("form", "beginning"), [("csv", b"refe"), ("jsonl", b'{"re'), ("parquet", b"PAR1")])
def test_a_reader_that_has_seen_enough_ends_an_export_without_a_word(
    writer: Writer, form: str, beginning: bytes
) -> None:
    many_calls(writer, 25_000)
    command = [COMMAND, "export", "--format", form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout
        assert export.stderr
        assert export.stdout.read(4) == beginning
        export.stdout.close()
        told = export.stderr.read()

    assert (export.returncode, re.sub(rb"exporting: .*\n", b"", told)) == (1, b"")


@ON_SQLITE
@SET
def test_what_nobody_expected_is_told_in_a_line_with_exit_code_1(writer: Writer, database: Database) -> None:
    many_calls(writer, 1)
    change_by_hand(database, "UPDATE calls SET placed_at = 'by hand'")

    result = run("export")

    assert result.exit_code == 1
    assert re.search(
        r"^Error: Unexpected ValueError: .*\nThis is a bug: please report it\.$", result.stderr, re.MULTILINE
    )


# migrate


def test_migrate_says_where_the_database_was_and_is_and_may_be_repeated(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)

    first, second = done("migrate"), done("migrate")

    assert re.search(r" is at migration \d{4} \(was empty\)\.\n$", first)
    assert re.search(r" is at migration \d{4} \(was there already\)\.\n$", second)
    assert json.loads(done("status", "--json"))["calls"] == 0


# register


def test_register_counts_what_is_new_and_what_was_known(
    settings: Settings, writer: Writer, reader: Reader, tmp_path: Path
) -> None:
    writer.record([callback("heard", 1, call_status="BUSY")], NOW)
    file = tmp_path / "placed.csv"
    file.write_text(
        "reference_id,phone,placed_at,note,other\nA,0901888484,2026-11-23,x,y\nheard,1\nb\n", encoding="utf-8-sig"
    )

    first, second = run("register", file), run("register", stdin="a\nc\n")

    assert first.exit_code == second.exit_code == 0
    assert first.stdout == "registered 3, already known 0, bad lines 0\n"
    assert second.stdout == "registered 1, already known 1, bad lines 0\n"
    assert first.stderr == "registering: 3 calls, 0 bad lines\nignored columns: note, other\n"
    call = reader.call("a")
    assert call is not None
    assert (call["phone"], call["placed_at"]) == ("0901888484", "2026-11-22T17:00:00.000000Z")
    assert settings.time_zone.key == "Asia/Ho_Chi_Minh"


@SET
def test_register_names_bad_lines_and_registers_the_rest(reader: Reader) -> None:
    result = run("register", stdin=b"reference_id,phone\na,1\nx y,2\n\n" + b"\xff\nb,3\nc,4,5")

    assert (result.exit_code, result.stdout) == (1, "registered 2, already known 0, bad lines 3\n")
    named = [line for line in result.stderr.splitlines() if line.startswith("line ")]
    assert [line.partition(": ")[0] for line in named] == ["line 3", "line 5", "line 7"]
    assert "reference_id" in named[0]
    assert reader.count() == 2


@SET
def test_register_guesses_that_a_csv_lost_its_header() -> None:
    result = run("register", stdin="a\nb,0901888484\n")

    assert result.exit_code == 0
    assert "line 2 holds a comma and was taken as a ReferenceId" in result.stderr


@SET
def test_register_of_nothing_is_done() -> None:
    assert done("register", stdin="") == "registered 0, already known 0, bad lines 0\n"


@SET
def test_register_says_how_far_it_came_when_the_database_goes_away(
    database: Database, reader: Reader, tmp_path: Path
) -> None:
    fifo = tmp_path / "calls.csv"
    os.mkfifo(fifo)

    def feed() -> None:
        with fifo.open("w") as file:
            file.writelines(f"call-{number}\n" for number in range(1000))
            file.flush()
            wait_until(lambda: reader.count() == 1000)
            change_by_hand(database, "ALTER TABLE calls RENAME TO gone")
            file.writelines(f"more-{number}\n" for number in range(10))

    feeding = threading.Thread(target=feed)
    feeding.start()
    result = run("register", fifo)
    feeding.join()

    assert (result.exit_code, result.stdout) == (4, "registered 1000, already known 0, bad lines 0\n")
    assert "Error: The database cannot be used: " in result.stderr


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    for _ in range(round(seconds * 50)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come so far")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that are started can be interrupted, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@ON_SQLITE
@SET
def test_register_that_is_interrupted_says_how_far_it_came(reader: Reader) -> None:
    with subprocess.Popen(
        [COMMAND, "register"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as registering:
        assert registering.stdin
        registering.stdin.writelines(f"call-{number}\n" for number in range(1500))
        registering.stdin.flush()
        wait_until(lambda: reader.count() == 1000)
        registering.send_signal(signal.SIGINT)
        out, err = registering.communicate(timeout=20)

    assert (registering.returncode, out) == (130, "registered 1000, already known 0, bad lines 0\n")
    assert "Interrupted." in err
    assert "Traceback" not in err


# status


def finished_run(writer: Writer, outcome: Any, ago: timedelta = timedelta(hours=1)) -> object:
    started_at = datetime.now(UTC) - ago
    run = Run(id=parameters.new_id(), started_at=started_at, host="here", outcome=outcome)
    writer.start_run(replace(run, finished_at=started_at if outcome else None), lease=timedelta(minutes=1))
    return started_at


def placed(writer: Writer, ago: timedelta) -> object:
    now = datetime.now(UTC)
    return writer.register([Registration(reference_id="a", placed_at=now - ago)], now)


def give_up(writer: Writer) -> None:
    placed(writer, timedelta(days=4))
    writer.conclude([LookupAnswer("a", "104")], datetime.now(UTC), give_up=timedelta(hours=72))


def almost_full(writer: Writer, database: Database) -> None:
    one = rejected(b"x=1")
    writer.reject(one)
    size = LIMIT_BYTES // 2 + 2**20
    change_by_hand(database, "UPDATE rejected_callbacks SET size = :size, replayed_at = last_at", size=size)


@pytest.mark.parametrize(
    ("happen", "words"),
    [
        (lambda writer, _: writer.reject(rejected(b"x=1")), ["could not be read: 1", "esms-calls replay --rejected"]),
        (almost_full, ["holds 129 of 256 MiB", "replay them, or copy and delete them"]),
        (
            lambda writer, _: give_up(writer),
            ["given up (gave_up_at): 1", "Ask eSMS's support", "esms-calls reconcile --retry-given-up"],
        ),
        (lambda writer, _: finished_run(writer, "failures"), ["ended with failures", "run `esms-calls reconcile`"]),
        (lambda writer, _: finished_run(writer, "refused"), ["ended with refused", "run `esms-calls reconcile`"]),
        (lambda writer, _: finished_run(writer, "died"), ["ended with died", "run `esms-calls reconcile`"]),
        (
            lambda writer, _: placed(writer, timedelta(minutes=11)),
            ["calls overdue: 1", "Have a timer run `esms-calls reconcile`"],
        ),
        (
            lambda writer, _: (
                placed(writer, timedelta(minutes=11)),
                finished_run(writer, "done", timedelta(hours=25)),
            ),
            ["calls overdue: 1", "Have a timer run `esms-calls reconcile`"],
        ),
    ],
    ids=["rejected", "room", "given up", "failures", "refused", "died", "never ran", "ran long ago"],
)
@SET
def test_status_says_what_needs_a_person_and_what_to_do_with_exit_code_1(
    writer: Writer,
    database: Database,
    happen: Callable[[Writer, Database], object],
    words: list[str],
) -> None:
    happen(writer, database)

    shown, as_json = run("status"), run("status", "--json")

    assert (shown.exit_code, as_json.exit_code) == (1, 1)
    (need,) = json.loads(as_json.stdout)["needs"]
    assert all(word in need for word in words)
    assert [line for line in shown.stdout.splitlines() if line.startswith("!")] == [f"! {need}"]


@pytest.mark.parametrize(
    "happen",
    [
        lambda _: None,
        lambda writer: placed(writer, timedelta(minutes=9)),
        lambda writer: (placed(writer, timedelta(minutes=11)), finished_run(writer, "done", timedelta(hours=23))),
        lambda writer: (placed(writer, timedelta(minutes=11)), finished_run(writer, "interrupted")),
        lambda writer: (finished_run(writer, "refused", timedelta(hours=2)), finished_run(writer, "done")),
        lambda writer: (finished_run(writer, "died", timedelta(hours=2)), finished_run(writer, None, timedelta(0))),
        lambda writer: writer.record(
            [callback("a", second, call_status=status) for second, status in enumerate(["BUSY", "ANSWERED"])],
            datetime.now(UTC),
        ),
    ],
    ids=["nothing", "in grace", "ran today", "interrupted", "well again", "under way", "conflict"],
)
@SET
def test_status_is_done_when_nothing_needs_a_person(writer: Writer, happen: Callable[[Writer], object]) -> None:
    happen(writer)

    assert json.loads(done("status", "--json"))["needs"] == []
    assert "!" not in done("status")


@SET
def test_status_goes_by_the_grace_that_is_set(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(writer, timedelta(minutes=11))
    monkeypatch.setenv("RECONCILE_GRACE", "1h")

    assert json.loads(done("status", "--json"))["overdue"] == 0


@SET
def test_status_shows_the_same_counts_to_people_and_programs(writer: Writer) -> None:
    writer.register([Registration(reference_id="missing", placed_at=at(0))], NOW)
    writer.record([callback("a", 1, call_status="BUSY"), callback("c", 2, call_status="BUSY")], NOW)
    writer.record([lookup("b", 3, call_status="BUSY"), callback("c", 4, call_status="ANSWERED")], NOW)
    finished_run(writer, "interrupted")

    shown, as_json = run("status"), json.loads(run("status", "--json").stdout)

    expected = {"calls": 4, "settled": 3, "by_callback": 2, "by_lookup": 1, "missing": 1, "overdue": 2}
    assert {name: as_json[name] for name in expected} == expected
    assert (as_json["given_up"], as_json["conflicts"], as_json["rejected"]) == (0, 1, 0)
    assert as_json["oldest_missing"] == "2026-11-23T10:00:00.000000Z"
    assert as_json["last_run"]["outcome"] == "interrupted"
    for name, value in expected.items():
        assert re.search(rf"^ +{name.replace('_', ' ')} +{value} *$", shown.stdout, re.MULTILINE)
    assert "2026-11-23T10:00:00.000000Z" in shown.stdout
    assert re.search(r"last run +\S+Z interrupted", shown.stdout)


# export


def some_calls(writer: Writer) -> None:
    writer.register([Registration(reference_id="a", campaign='Tết,\n"sớm"', placed_at=at(0))], NOW)
    writer.record([callback("b", 10, call_status="ANSWERED", call_duration=13, price=450, ivr="007")], at(11))
    writer.record([callback("c", 20, call_status="BUSY"), callback("c", 21, call_status="ANSWERED")], at(21))


@SET
def test_an_export_as_csv_has_every_column_and_leaves_empty_what_was_not_said(writer: Writer, reader: Reader) -> None:
    some_calls(writer)

    told = done("export")

    rows = list(csv.DictReader(io.StringIO(told, newline="")))
    assert told.splitlines()[0] == ",".join(calls.columns.keys())
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

    told = done("export", "--format", "jsonl")

    assert [json.loads(line) for line in told.splitlines()] == list(reader.export())
    assert "Tết" in told


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
def test_an_export_as_parquet_to_standard_output_comes_group_by_group(
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
def test_without_pyarrow_an_export_as_parquet_tells_how_to_get_it(
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
def test_an_export_is_utf_8_whatever_the_locale(writer: Writer) -> None:
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

    told = done("export", "--format", "jsonl", *options)

    assert [json.loads(line)["reference_id"] for line in told.splitlines()] == names


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
    fifo, told = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reading = threading.Thread(target=lambda: told.append(fifo.read_text("utf-8")))
    reading.start()

    assert done("export", "--output", fifo) == ""
    reading.join()
    full = run("export", "--output", "/dev/full")

    assert told == [done("export")]
    assert fifo.is_fifo()
    assert (full.exit_code, full.stdout) == (1, "")
    assert "Error: No space left on device" in full.stderr


@SET
def test_an_export_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = run("export", "--output", tmp_path / "nowhere/calls.csv")

    assert result.exit_code == 1
    assert f"{tmp_path}/nowhere/calls.csv': No such file or directory" in result.stderr


# replay


def history_with_two_changed_by_hand(writer: Writer, database: Database) -> None:
    reports = [callback(name, second, call_status="BUSY") for name in "abc" for second in (1, 2)]
    writer.record(reports, NOW)
    change_by_hand(database, "UPDATE calls SET call_status = 'ANSWERED', ivr = '1' WHERE reference_id = 'b'")
    change_by_hand(database, "DELETE FROM calls WHERE reference_id = 'c'")


@SET
def test_a_replay_that_checks_names_the_calls_that_differ_and_changes_nothing(
    writer: Writer, database: Database, reader: Reader
) -> None:
    history_with_two_changed_by_hand(writer, database)
    before = list(reader.export())

    result = run("replay", "--check")

    assert (result.exit_code, result.stdout) == (1, "b\nc\n")
    assert "3 calls read, 2 differ from their history" in result.stderr
    assert list(reader.export()) == before


@SET
def test_a_replay_puts_the_calls_right_that_differ_and_changes_no_other(
    writer: Writer, database: Database, reader: Reader
) -> None:
    history_with_two_changed_by_hand(writer, database)
    untouched = reader.call("a")

    first, check, again = run("replay"), run("replay", "--check"), run("replay")

    assert [(one.exit_code, one.stdout) for one in (first, check, again)] == [(0, "b\nc\n"), (0, ""), (0, "")]
    assert "3 calls read, 2 differed from their history and were corrected" in first.stderr
    for name in "bc":
        call = stored_call(database, name)
        assert (call.call_status, call.ivr, call.report_count, call.settled_at) == ("BUSY", None, 2, at(1))
    assert reader.call("a") == untouched


@SET
def test_a_replay_of_the_rejected_stores_those_that_can_be_read_now_once(writer: Writer, database: Database) -> None:
    readable, other = rejected(b"ReferenceId=A&SendStatus=5", seconds=1), rejected(b"x=1", seconds=2)
    for one in (readable, other):
        writer.reject(one)

    first, again = run("replay", "--rejected"), run("replay", "--rejected")

    assert (first.exit_code, first.stdout) == (0, "a settled\n")
    assert "1 rejected callbacks stored, 1 still cannot be read" in first.stderr
    assert (again.exit_code, again.stdout) == (0, "")
    assert "0 rejected callbacks stored, 1 still cannot be read" in again.stderr
    (report,) = stored_reports(database, "a")
    assert (report.id, report.received_at, report.remote_addr) == (readable.id, at(1), "203.0.113.7")
    assert json.loads(run("status", "--json").stdout)["rejected"] == 1


@SET
def test_a_replay_of_the_rejected_goes_back_only_so_far(writer: Writer, reader: Reader) -> None:
    for second in (0, 10):
        writer.reject(rejected(f"ReferenceId=call-{second}".encode(), seconds=second))

    assert done("replay", "--rejected", "--since", "2026-11-23T17:00:10") == "call-10 progressed\n"
    assert reader.call("call-0") is None
    assert done("replay", "--rejected") == "call-0 progressed\n"


# How far it is


def test_progress_is_plain_lines_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.progress("counting", 5000) as tell:
        for number in range(1, 5001):
            tell(number, "[red]calls[/red]")
    with terminal.progress("idling", None):
        pass
    monkeypatch.setattr(terminal, "_EVERY_SECONDS", 0.0)
    with terminal.progress("waiting", None) as tell:
        tell(1, "x" * 300)
        tell(2, "y")

    out, err = capsys.readouterr()
    assert out == ""
    assert err == (f"counting: 5000 of 5000 [red]calls[/red]\nwaiting: 1 {'x' * 300}\nwaiting: 2 y\n")


@contextmanager
def a_terminal() -> Iterator[tuple[int, Callable[[], str]]]:
    """A terminal's file descriptor, and a function that ends it and gives all that was shown on it."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with suppress(OSError):
            while part := os.read(ours, 65536):
                shown.append(part)

    # At once: a terminal that nobody reads keeps its programs waiting.
    reading = threading.Thread(target=read, daemon=True)
    reading.start()

    def end() -> str:
        os.close(theirs)
        reading.join()
        return b"".join(shown).decode()

    yield theirs, end
    os.close(ours)


@ON_SQLITE
@SET
def test_progress_is_a_bar_on_a_terminal_and_output_stays_clean(writer: Writer) -> None:
    many_calls(writer, 3)
    with a_terminal() as (screen, end):
        result = subprocess.run(
            [COMMAND, "export"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=screen,
            check=True,
            env=os.environ | {"TERM": "xterm"},
        )
        shown = end()

    assert "exporting" in shown
    assert "\x1b[" in shown
    assert "3/3" in shown
    assert result.stdout.count(b"\n") == 4
    assert b"\x1b" not in result.stdout


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


@ON_SQLITE
@SET
def test_json_comes_out_in_one_line_on_a_terminal_and_a_table_below_a_bar(writer: Writer) -> None:
    writer.register([Registration(reference_id=f"a-{number}") for number in range(30)], NOW)
    writer.record([callback(f"a{number}", 1, call_status="BUSY") for number in range(30)], NOW)
    told = []
    for options in (["--json"], []):
        with a_terminal() as (screen, end):
            command = [COMMAND, "completeness", *options]
            environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
            subprocess.run(command, stdin=screen, stdout=screen, stderr=screen, check=True, env=environment)
            told.append(end())

    assert len(json.loads(told[0])["twins"]) == 30
    assert told[0].count("\r\n") == 1
    assert "counting" in told[1]
    assert "  a-29  a29\r\n" in told[1]


@ON_SQLITE
@SET
def test_register_that_reads_from_a_terminal_says_how_to_end() -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"a\nb\n\x04")
    result = subprocess.run([COMMAND, "register"], stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours)
    os.close(theirs)

    assert (result.returncode, result.stdout) == (0, "registered 2, already known 0, bad lines 0\n")
    assert "Ctrl-D" in result.stderr


# The installed command, and what keeps a server from starting (test_serving.py has the rest)


@ON_SQLITE
@SET
def test_the_installed_command_is_the_same() -> None:
    result = esms_calls("register", stdin="a\nb c\n")

    assert (result.returncode, result.stdout) == (1, "registered 1, already known 0, bad lines 1\n")
    assert result.stderr.splitlines()[0].startswith("line 2: reference_id: must have")


@pytest.mark.parametrize("revision", [None, "0000"])
@ON_POSTGRESQL
@SET
def test_a_server_refuses_a_postgresql_at_another_migration_and_names_the_command(
    database: Database, revision: str | None
) -> None:
    if revision:
        change_by_hand(database, "UPDATE alembic_version SET version_num = :revision", revision=revision)
    else:
        change_by_hand(database, "DROP TABLE alembic_version")

    result = run("serve", "--bind", f"127.0.0.1:{free_port()}")

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"is at migration {revision or 'none'}" in result.stderr
    assert "run `esms-calls migrate`" in result.stderr


@ON_SQLITE
@SET
def test_a_server_says_which_address_it_cannot_have() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        for bind, reason in ((taken, "Address already in use"), ("203.0.113.7:8000", "Cannot assign"), ("[x]:1", "")):
            result = run("serve", "--bind", bind)

            assert (result.exit_code, result.stdout) == (1, "")
            assert f"Error: cannot listen on {bind} ({reason}" in result.stderr
            assert "choose another --bind" in result.stderr


@ON_SQLITE
@SET
def test_a_server_with_an_embedded_database_that_cannot_be_used_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/file/calls.db")

    result = run("serve", "--bind", f"127.0.0.1:{free_port()}")

    assert (result.exit_code, result.stdout) == (4, "")
    assert "the folder cannot be made" in result.stderr


# spool


def spooled(settings: Settings, *reader: str, ago: timedelta = timedelta(0)) -> list[CallbackRequest]:
    """Callbacks that wait, as a server that is stopped by now left them."""
    now = datetime.now(UTC) - ago
    waiting = [
        CallbackRequest(parameters.new_id(), now, "203.0.113.7", "POST", "text/plain", query.encode(), b"\xff")
        for query in reader
    ]
    spool = Spool(settings.instance_dir, settings.spool_limit)
    spool.append(waiting)
    spool.close()
    return waiting


@contextmanager
def database_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("DATABASE_URL", f"postgresql://user:the-password@127.0.0.1:{free_port()}/calls")
        assert settings.instance_dir
        yield


def test_what_waits_in_the_spool_is_listed_and_exported_without_a_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database_away(settings, monkeypatch):
        assert (done("spool", "list"), done("spool", "export")) == ("", "")
        assert run("spool", "list").stderr == "The spool is empty.\n"
        assert not settings.instance_dir.exists()
        first, second = spooled(settings, "ReferenceId=A&SendStatus=5&Price=450", "x=é")
        listed, exported = run("spool", "list"), done("spool", "export")

    assert [line.split("  ", 1)[1] for line in listed.stdout.splitlines()] == [
        f"{first.id}  a",
        f"{second.id}  unreadable: ReferenceId: is missing",
    ]
    assert listed.stderr == "2 in the spool\n"
    one, other = map(json.loads, exported.splitlines())
    assert one == {
        "id": str(first.id),
        "received_at": one["received_at"],
        "remote_addr": "203.0.113.7",
        "method": "POST",
        "content_type": "text/plain",
        "query": "ReferenceId=A&SendStatus=5&Price=450",
        "body": "\\xff",
        "reference_id": "a",
        "said": {"send_status": 5, "price": "450.0000"},
        "reason": None,
    }
    assert datetime.fromisoformat(one["received_at"]) == first.received_at
    assert one["received_at"].endswith("Z")
    assert (other["reference_id"], other["said"], other["reason"]) == (None, {}, "ReferenceId: is missing")
    assert other["query"] == "x=é"


@ON_SQLITE
def test_a_spool_of_more_than_is_read_at_once_is_shown_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.cli.spool._PORTION", 2)
    waiting = spooled(settings, *(f"ReferenceId={number}" for number in range(5)))

    assert [json.loads(line)["id"] for line in done("spool", "export").splitlines()] == [str(one.id) for one in waiting]
    assert len(done("spool", "list").splitlines()) == 5


def test_the_spool_is_drained_by_hand_while_no_server_runs(
    settings: Settings, database: Database, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert done("spool", "drain") == "The spool is empty.\n"
    (readable, _) = spooled(settings, "ReferenceId=a&SendStatus=5", "x=1")
    with database_away(settings, monkeypatch):
        away = run("spool", "drain")
    assert (away.exit_code, away.stdout) == (4, "")
    assert "the-password" not in away.stderr

    assert done("spool", "drain") == "2 callbacks stored; the spool is empty.\n"
    assert done("spool", "drain") == "The spool is empty.\n"

    (report,) = stored_reports(database, "a")
    assert (report.id, report.received_at) == (readable.id, readable.received_at)
    assert json.loads(run("status", "--json").stdout)["rejected"] == 1
    assert reader.count() == 1


def test_the_drain_by_hand_names_what_a_trigger_refuses_and_ends(settings: Settings, database: Database) -> None:
    refuse(database, "poison")
    _, poison = spooled(settings, "ReferenceId=a", "ReferenceId=poison")

    refused = run("spool", "drain")

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert re.search(rf"^{poison.id}: .*(not this one|malformed JSON)", refused.stderr, re.MULTILINE)
    assert "Find what raises the errors" in refused.stderr
    assert "poison" in done("spool", "list")
    assert stored_call(database, "a").report_count == 1


@ON_SQLITE
def test_a_spool_that_cannot_be_used_is_told_with_exit_code_1(settings: Settings) -> None:
    (settings.instance_dir / "spool.db").mkdir(parents=True)

    for command in (["spool", "list"], ["spool", "export"], ["spool", "drain"], ["status"]):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "The spool cannot be used: " in result.stderr
        assert "Check INSTANCE_DIR, its disk and SPOOL_LIMIT." in result.stderr


@pytest.mark.parametrize(("age", "code"), [(timedelta(seconds=30), 0), (timedelta(seconds=90), 1)])
def test_status_shows_the_spool_and_asks_for_a_person_when_it_is_old(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, age: timedelta, code: int
) -> None:
    assert json.loads(done("status", "--json"))["spool"]["reports"] == 0
    spooled(settings, "ReferenceId=a", "ReferenceId=b", ago=age)

    as_json, shown = run("status", "--json"), run("status")
    with database_away(settings, monkeypatch):
        away_as_json, away = run("status", "--json"), run("status")

    assert (as_json.exit_code, shown.exit_code) == (code, code)
    assert (away_as_json.exit_code, away.exit_code) == (4, 4)
    for result in (as_json, away_as_json):
        told = json.loads(result.stdout)
        assert told["spool"]["reports"] == 2
        assert 0 <= told["spool"]["oldest_seconds"] - age.total_seconds() < 20
        assert datetime.fromisoformat(told["spool"]["oldest_at"]) <= datetime.now(UTC) - age
        assert told["spool"]["bytes"] > 0
        assert [need for need in told["needs"] if "callbacks that wait in the spool: 2" in need] == told["needs"]
        assert len(told["needs"]) == code
    for result in (shown, away):
        assert re.search(r"in the spool +2\b", result.stdout)
        assert ("! callbacks that wait in the spool: 2" in result.stdout) == bool(code)
    assert "Error: The database cannot be used" in away.stderr
