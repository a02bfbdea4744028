"""What every command says when something is wrong, and its exit code."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from makers import change_by_hand
from running import COMMAND, Program, esms_calls, free_port
from running import run as run_program

from webapp.cli.commands import COMMANDS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

from commands import CONTROL, ON_SQLITE, SET, done, many_calls, run

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


@pytest.mark.parametrize(
    "command",
    [
        *([name] for name in sorted(COMMANDS)),
        *(["spool", name] for name in ("list", "export", "drain")),
        ["grant-readonly", "analyst"],
        ["rollups", "rebuild"],
        *(["time-zone", name] for name in ("show", "set")),
        [],
    ],
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_a_help_that_names_each_option(command: list[str], flag: str) -> None:
    printed = done(*command, flag)

    assert printed.startswith("Usage: ")
    assert CONTROL.search(printed) is None
    assert max(map(len, printed.splitlines())) <= 120
    found = cli.get_command(click.Context(cli), command[0]) if command else cli
    assert found
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert all(spelling in printed for spelling in parameter.opts)


def test_the_version_is_shown() -> None:
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
        (["export", "--since", "11/23/2026"], "there is no month 23: the day comes first"),
        (["export", "--until", "0001-01-01"], "lies outside the years that can be stored"),
        (["export", "--output", "/"], "--output"),
        (["completeness", "--by", "week"], "--by"),
        (["completeness", "--by", "day", "--expect", "-"], "--by and --expect do not go together"),
        (["completeness", "--expect", "nowhere.txt"], "'nowhere.txt': No such file or directory"),
        (["completeness", "--since", "soon"], "'soon' is not a date or time such as 2026-11-23"),
        (["replay", "--check", "--rejected"], "--check, --rejected and --unread do not go together"),
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
    if kind == "no server listens":
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


WHAT_TO_DO = {
    "no server listens": "Start PostgreSQL, or correct host and port in DATABASE_URL.",
    "hangs up": "Check DATABASE_URL, that the database runs, and the network between.",
    "no database": "The file is damaged, or another program's: correct DATABASE_URL, "
    "or `esms-calls restore --force` a backup.",
}


@pytest.mark.parametrize("kind", WHAT_TO_DO)
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
    assert f"\n{WHAT_TO_DO[kind]}" in result.stderr
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


BROKEN = os.fsdecode(b"caf\xe9-\xff")
"""An argument as a shell gives it that does not speak UTF-8."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", BROKEN],
        ["dismiss", BROKEN],
        ["completeness", "--campaign", BROKEN],
        ["export", "--since", BROKEN],
        ["register", BROKEN],
    ],
    ids=lambda arguments: " ".join(arguments[:-1]),
)
@ON_SQLITE
@SET
def test_an_argument_that_is_not_utf_8_is_a_wrong_usage(arguments: list[str]) -> None:
    result = esms_calls(*arguments)

    assert (result.returncode, result.stdout) == (2, "")
    assert "bug" not in result.stderr
    assert "Traceback" not in result.stderr


@ON_SQLITE
@SET
def test_a_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started = run_closed(0, "register")
    ends: list[tuple[object, str, str]] = [(started.returncode, started.stdout, started.stderr)]
    monkeypatch.setattr(sys, "stdin", None)  # as Python does it for a new process
    for arguments in (["completeness", "--expect", "-"], ["unregister", "--file", "-"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        ends.append((ended.value.code, *capsys.readouterr()))

    for code, out, err in ends:
        assert (code, out) == (2, "")
        assert "Standard input is closed" in err
        assert "bug" not in err


@ON_SQLITE
@pytest.mark.parametrize("closed", [1, 2])
@SET
def test_a_closed_output_is_as_good_as_one_without_a_reader(closed: int, database: Database) -> None:
    result = run_closed(closed, "export")

    assert result.returncode == 0
    assert (result.stdout == "") == (closed == 1)
    assert result.stderr == ""
    database.check()


def run_closed(number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose standard file of that number is closed."""
    words = f'exec "$0" "$@" {number}{"<" if number == 0 else ">"}&-'
    return subprocess.run(["sh", "-c", words, COMMAND, *arguments], capture_output=True, text=True, check=False)  # noqa: S607


FOLDERS = [
    ({"DATABASE_URL": "{folder}"}, ["migrate"], 2, "DATABASE_URL must be a URL such as postgresql://"),
    ({"DATABASE_URL": "sqlite:///{folder}"}, ["migrate"], 2, "DATABASE_URL names a folder: name a file in it"),
    ({"INSTANCE_DIR": "{file}"}, ["migrate"], 2, "INSTANCE_DIR must be a folder, and "),
    ({"TIME_ZONE": "Asia"}, ["migrate"], 2, "TIME_ZONE must be the name of a time zone, such as Asia/Ho_Chi_Minh"),
    ({}, ["export", "--output", "{folder}"], 2, "is a directory: name a file"),
    ({}, ["register", "{folder}"], 2, "Is a directory"),
    ({}, ["completeness", "--expect", "{folder}"], 2, "Is a directory"),
    ({}, ["unregister", "--file", "{folder}"], 2, "Is a directory"),
    ({"DATABASE_URL": "sqlite:///{file}/calls.db"}, ["migrate"], 4, "the folder cannot be made: Not a directory"),
]


@ON_SQLITE
@pytest.mark.parametrize(("environment", "arguments", "code", "words"), FOLDERS)
@SET
def test_a_folder_in_place_of_a_file_or_a_file_in_place_of_a_folder_is_named(
    environment: dict[str, str],
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    places = {"folder": tmp_path / "folder", "file": tmp_path / "file"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format_map(places))

    result = run(*(argument.format_map(places) for argument in arguments))

    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert "bug" not in result.stderr


FULL_DISK = ["migrate", "callback-url", "status", "completeness", "export", "export --excel", "register", "--help"]
AS_INSTALLED = {"completeness", "export", "--help"}
"""Of these the end of the interpreter is looked at, too; the others are quicker as forks."""


@ON_SQLITE
@pytest.mark.parametrize("command", FULL_DISK)
@SET
def test_output_that_cannot_be_written_is_named(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it nothing is left to be written in the end
    if command in AS_INSTALLED:
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            result = subprocess.run(
                [COMMAND, command],
                stdin=subprocess.DEVNULL,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
    else:
        result = run_program(Program(*command.split(), environment={}, stdout=Path("/dev/full")))

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "Error: No space left on device: input or output"
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@ON_SQLITE
@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        ("export --columns reference_id", 0, "reference_id\ncall-00000\n"),
        ("register -", 1, "registered 0, already known 0, changed 0, bad lines 1\n"),
        ("replay", 0, ""),
        ("show nowhere", 1, ""),
        ("no-command", 2, ""),
        ("export --since never", 2, ""),
    ],
)
@SET
def test_a_command_goes_on_where_standard_error_cannot_be_written(
    writer: Writer, command: str, code: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    many_calls(writer, 1)
    if command == "register -":  # as installed: the end of the interpreter is looked at, too
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            result = subprocess.run(
                [COMMAND, *command.split()],
                input="bad id\n",
                stdout=subprocess.PIPE,
                stderr=full,
                text=True,
                check=False,
            )
    else:
        result = run_program(Program(*command.split(), environment={}, stderr=Path("/dev/full")))

    assert (result.returncode, result.stdout) == (code, output)


@ON_SQLITE
@SET
def test_an_unexpected_error_is_one_line_with_exit_code_1(writer: Writer, database: Database) -> None:
    many_calls(writer, 1)
    change_by_hand(database, "UPDATE calls SET placed_at = 'by hand'")

    result = run("export")

    assert result.exit_code == 1
    assert re.search(
        r"^Error: Unexpected ValueError: .*\nThis is a bug: please report it\.$", result.stderr, re.MULTILINE
    )


@ON_SQLITE
@SET
def test_the_installed_command_is_the_same() -> None:
    result = subprocess.run([COMMAND, "register"], input="a\nb c\n", capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (1, "registered 1, already known 0, changed 0, bad lines 1\n")
    assert result.stderr.splitlines()[0].startswith("line 2: reference_id: must have")
