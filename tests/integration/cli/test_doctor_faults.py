"""Whatever is broken on this machine, in the settings or in the database: doctor names it, and what to do."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import ON_SQLITE, spooled
from doctoring import examined
from makers import callback, change_by_hand
from outages import small_disk, sqlite_locked
from running import free_port
from sqlalchemy import make_url

from webapp.calls.rule import Registration
from webapp.cli import doctor_folder
from webapp.storage.writer import Writer
from webapp.support.file_systems import network_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.storage.database import Database
    from webapp.support.settings import Settings


class Breaking:
    """What a test may break, and a stack for what must be mended after it."""

    def __init__(self, settings: Settings, database: Database, environment: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.folder = settings.instance_dir
        self.database = database
        self.file = Path(str(make_url(settings.database).database))
        self.environment = environment
        self.mended = ExitStack()

    def env_file(self, content: str, mode: int = 0o600) -> None:
        Path(".env").write_text(content)
        Path(".env").chmod(mode)

    def sql(self, statement: str) -> None:
        change_by_hand(self.database, statement)

    def placed(self, ago: timedelta) -> None:
        now = datetime.now(UTC)
        Writer(self.database).register([Registration(reference_id="a", placed_at=now - ago)], now)


def a_mistyped_name(broken: Breaking) -> None:
    broken.env_file("CALBACK_TOKEN=some-token-or-other\n")


def a_name_of_no_setting(broken: Breaking) -> None:
    broken.env_file("POSTGRES_PASSWORD=the-password\n")


def a_broken_line(broken: Breaking) -> None:
    broken.env_file("# settings\nTRUSTED_PROXIES 1\n")


def an_open_env_file(broken: Breaking) -> None:
    broken.env_file("SPOOL=on\n", mode=0o644)


def two_values(broken: Breaking) -> None:
    broken.env_file("TIME_ZONE=UTC\n")
    broken.environment.setenv("TIME_ZONE", "Asia/Ho_Chi_Minh")


def a_damaged_token(broken: Breaking) -> None:
    broken.environment.delenv("API_TOKEN")
    (broken.folder / "api_token").write_text("short")
    (broken.folder / "api_token").chmod(0o600)


def no_database_file(broken: Breaking) -> None:
    (broken.folder / "callback_token").touch(mode=0o600)
    broken.database.close()
    broken.file.unlink()


def a_locked_database(broken: Breaking) -> None:
    broken.environment.setattr("webapp.cli.doctor_database._PATIENCE", timedelta(seconds=0.2))
    broken.mended.enter_context(sqlite_locked(broken.file))


def a_damaged_database(broken: Breaking) -> None:
    broken.database.close()
    broken.file.write_bytes(b"This is no database, but some other file that took its name. " * 100)


def no_tables(broken: Breaking) -> None:
    broken.environment.setenv("DATABASE_URL", f"sqlite:///{broken.file.with_name('empty.db')}")
    broken.file.with_name("empty.db").touch()


def a_newer_version(broken: Breaking) -> None:
    broken.sql("UPDATE alembic_version SET version_num = '9999'")


def a_newer_version_that_only_adds(broken: Breaking) -> None:
    a_newer_version(broken)
    broken.sql("UPDATE schema_compatibility SET migration = '9999', usable_from = '0001'")


def an_older_migration(broken: Breaking) -> None:
    broken.sql("UPDATE alembic_version SET version_num = '0001'")


def another_time_zone(broken: Breaking) -> None:
    broken.environment.setenv("TIME_ZONE", "Asia/Tokyo")


def no_callback_yet(broken: Breaking) -> None:
    broken.placed(timedelta(hours=2))


def callbacks_that_stopped(broken: Breaking) -> None:
    one = callback("b", received_at=datetime.now(UTC) - timedelta(days=2))
    Writer(broken.database).record([one], one.received_at)
    broken.placed(timedelta(hours=2))


def a_folder_that_others_write(broken: Breaking) -> None:
    broken.folder.chmod(0o770)


def a_token_that_others_read(broken: Breaking) -> None:
    (broken.folder / "callback_token").touch()
    (broken.folder / "callback_token").chmod(0o644)


def a_file_of_another_user(broken: Breaking) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file to another user")
    (broken.folder / "spool.lock").touch(mode=0o600)
    os.chown(broken.folder / "spool.lock", 65534, -1)


def a_folder_of_another_user(broken: Breaking) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder to another user")
    os.chown(broken.folder, 65534, -1)


def a_network_file_system(broken: Breaking) -> None:
    mountinfo = Path("mountinfo")
    mountinfo.write_text("22 1 0:27 / / rw - nfs4 server:/calls rw\n")
    broken.environment.setattr(doctor_folder, "network_filesystem", partial(network_filesystem, mountinfo=mountinfo))


def a_full_disk(broken: Breaking) -> None:
    disk = broken.mended.enter_context(small_disk(8))
    (disk.folder / "instance").mkdir(mode=0o700)
    broken.environment.setenv("INSTANCE_DIR", str(disk.folder / "instance"))


def a_spool_that_waits(broken: Breaking) -> None:
    spooled(broken.settings, "ReferenceId=a&SendStatus=5", ago=timedelta(minutes=9))


def a_spool_that_is_filling(broken: Breaking) -> None:
    spooled(broken.settings, f"ReferenceId=a&Note={'x' * 40_000}")
    broken.environment.setenv("SPOOL_LIMIT", "64KiB")


def a_spool_that_is_off(broken: Breaking) -> None:
    spooled(broken.settings, "ReferenceId=a&SendStatus=5")
    broken.environment.setenv("SPOOL", "off")


def a_replica_that_is_away(broken: Breaking) -> None:
    broken.environment.setenv("READ_DATABASE_URL", f"postgresql://user:the-password@127.0.0.1:{free_port()}/calls")


def one_key(broken: Breaking) -> None:
    broken.environment.setenv("ESMS_API_KEY", "a-key")


FAULTS: list[tuple[Callable[[Breaking], None], str, str, list[str]]] = [
    (a_mistyped_name, ".env", "warning", ["CALBACK_TOKEN (do you mean CALLBACK_TOKEN?)", "correct or remove"]),
    (a_name_of_no_setting, ".env", "warning", ["POSTGRES_PASSWORD", "docs/settings.md"]),
    (a_broken_line, ".env", "warning", ["at line 2", "NAME=value"]),
    (an_open_env_file, ".env mode", "warning", ["may read it", "chmod 600"]),
    (two_values, "settings", "warning", ["TIME_ZONE", "unset these variables"]),
    (a_damaged_token, "tokens", "failed", ["api_token does not hold a token", "remove the file"]),
    (no_database_file, "database", "failed", ["calls.db does not exist", "esms-calls restore"]),
    (a_locked_database, "writes", "failed", ["database is locked", "fuser -v"]),
    (a_damaged_database, "database", "failed", ["not a database", "esms-calls restore"]),
    (no_tables, "migration", "failed", ["at none", "esms-calls migrate"]),
    (a_newer_version, "migration", "failed", ["at migration 9999", "Upgrade this one"]),
    (a_newer_version_that_only_adds, "migration", "warning", ["brought the database to 9999", "upgrade this program"]),
    (an_older_migration, "migration", "failed", ["at 0001", "esms-calls migrate"]),
    (another_time_zone, "time zone", "warning", ["Asia/Tokyo", "esms-calls time-zone set Asia/Tokyo"]),
    (no_callback_yet, "last callback", "warning", ["none has come yet", "esms-calls callback-url"]),
    (callbacks_that_stopped, "last callback", "failed", ["calls were placed since", "esms-calls callback-url"]),
    (a_folder_that_others_write, "modes", "failed", ["(770)", "chmod -R go= "]),
    (a_token_that_others_read, "modes", "warning", ["callback_token (644)", "chmod -R go= "]),
    (a_file_of_another_user, "folder", "failed", ["spool.lock", "chown -R "]),
    (a_folder_of_another_user, "folder", "warning", ["is run by", "as the server's user"]),
    (a_network_file_system, "file system", "failed", ["nfs4", "a disk of this machine"]),
    (a_full_disk, "disk", "failed", ["MiB free", "make space"]),
    (a_spool_that_waits, "spool", "failed", ["1 callbacks wait", "esms-calls spool drain"]),
    (a_spool_that_is_filling, "spool", "failed", ["of 64 KiB (SPOOL_LIMIT)", "answered 503", "higher SPOOL_LIMIT"]),
    (a_spool_that_is_off, "spool", "failed", ["1 callbacks wait", "esms-calls spool drain"]),
    (a_replica_that_is_away, "replica", "failed", ["READ_DATABASE_URL", "host and port in READ_DATABASE_URL"]),
    (one_key, "eSMS keys", "failed", ["ESMS_SECRET_KEY", "the keys of your eSMS account are needed"]),
]


@ON_SQLITE
@pytest.mark.parametrize(("fault", "check", "result", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_each_fault_is_named_with_its_remedy(
    healthy: Settings,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Breaking], None],
    check: str,
    result: str,
    words: list[str],
) -> None:
    broken = Breaking(healthy, database, monkeypatch)
    with broken.mended:
        fault(broken)
        found = examined()

    assert found.checks[check].result == result, found.checks[check]
    assert [word for word in words if word not in found.checks[check].words] == [], found.checks[check]
    assert found.exit_code == (result == "failed"), found.of("failed")
