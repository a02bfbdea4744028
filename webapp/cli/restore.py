"""The command restore: puts a backup in the place of the embedded database, the spool and the tokens."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import URL

from webapp.callbacks.spool import Spool
from webapp.cli.backup import DATABASE, SPOOL, contents_in_words, database_file, kept_files, postgresql_words
from webapp.cli.output import printable_line, say
from webapp.storage import schema, sqlite_files
from webapp.storage.database import Database
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support import archive, files
from webapp.support.archive import BadArchive
from webapp.support.server_lock import locked_for_restore
from webapp.support.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_IN_USE_REMEDY = "end it, then run this again"


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace what is there; it is kept aside.")
@click.option("--check", is_flag=True, help="Only look whether FILE is whole, and what is in it.")
def restore(file: Path, *, force: bool, check: bool) -> None:
    """Put a backup's calls, spool and tokens where the settings say; the server must not run.

    First all of FILE is checked; nothing is touched if it is not whole. What is there already is replaced with --force
    alone, and then kept in a new folder beside it, whose name is printed. An older backup is migrated by the next
    `serve`.
    """
    settings = load_settings()
    if not settings.is_embedded:
        raise click.UsageError(postgresql_words(settings))
    if check:
        with tempfile.TemporaryDirectory(prefix="esms-calls-restore-") as folder:
            say(printable_line(f"{file} is whole: {_backup_in_words(_unpacked(file, Path(folder)))}"))
        return
    instance = settings.instance_dir.resolve()
    files.make_folder(instance)
    with locked_for_restore(instance) as free, _staging(settings) as folder:
        if not free:
            raise click.ClickException(f"a server runs in {instance}: {_IN_USE_REMEDY}.")
        about = _unpacked(file, folder)
        aside = _aside_for(settings, force=force)
        try:
            _set_aside(settings, aside)
            _put_in_place(settings, folder, about["sha256"])
        except BaseException:
            where = f"What was there is in {aside or instance}, or still in its place."
            say(f"The restore did not end. Run it again, with --force. {where}", err=True)
            raise
    say(printable_line(f"Restored {_backup_in_words(about)}."))
    if aside:
        _say_what_is_aside(aside, settings)
    say("Start the server again: it stores what waits in the spool.")


@contextmanager
def _staging(settings: Settings) -> Iterator[Path]:
    """A folder on the disk of the database: what is in it is put in place without copying."""
    parent = database_file(settings).parent
    files.make_folder(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".esms-calls-restore-") as folder:
        yield Path(folder)


def _unpacked(file: Path, folder: Path) -> dict[str, Any]:
    """What is known about the backup; its files, all of them checked, are then in the folder."""
    try:
        about = archive.read(file, folder)
        _require_calls(file, folder)
        found = sqlite_files.holds(folder / DATABASE)
        _require_usable(folder / DATABASE)
    except (BadArchive, Unavailable) as error:
        words = str(error).replace(str(folder / DATABASE), str(file))
        raise click.ClickException(f"{words}. Nothing was changed; use another backup.") from None
    except NotMigrated as error:
        raise click.ClickException(f"{file} cannot be used. {error} Nothing was changed.") from None
    return about | found._asdict()


def _require_calls(file: Path, folder: Path) -> None:
    others = {path.name for path in folder.iterdir()} - {path.name for path in kept_files(folder)}
    if others - {SPOOL} != {DATABASE}:
        raise BadArchive(f"{file} does not hold what a backup of calls holds")


def _require_usable(file: Path) -> None:
    database = Database(URL.create("sqlite", database=str(file)).render_as_string(hide_password=False))
    try:
        with database.snapshot() as connection:
            schema.current_migration(connection)
    finally:
        database.close()


def _backup_in_words(about: dict[str, Any]) -> str:
    return f"{contents_in_words(about, about['sha256'])}; made at {about['made_at']} by version {about['version']}"


def _aside_for(settings: Settings, *, force: bool) -> Path | None:
    """A new folder for what is there, which may be replaced; None: nothing is there."""
    found = _what_is_there(settings)
    if not found:
        return None
    if not force:
        listed = ", ".join(str(path) for path in found)
        raise click.ClickException(f"there is something already: {listed}. --force keeps it aside, and restores.")
    if sqlite_files.is_in_use(database_file(settings)):
        raise click.ClickException(
            f"another process has {database_file(settings)} open (`fuser -v` names it): {_IN_USE_REMEDY}."
        )
    aside = settings.instance_dir.resolve() / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    aside.mkdir(mode=0o700)
    return aside


def _set_aside(settings: Settings, aside: Path | None) -> None:
    """Move what is there into the folder, which is then an instance folder of its own."""
    if aside is None:
        return
    database = database_file(settings).name
    for path in _what_is_there(settings):
        # Its files are called calls.db there: INSTANCE_DIR finds them.
        name = path.name.replace(database, DATABASE, 1) if path.name.startswith(database) else path.name
        _move(path, aside / name)
    files.sync_folder(aside)


def _what_is_there(settings: Settings) -> list[Path]:
    """What a restore would replace, or read wrongly; also a -wal file that is left without its database."""
    database, instance = database_file(settings), settings.instance_dir.resolve()
    files_of_databases = [
        path.with_name(f"{path.name}{suffix}")
        for path in (database, instance / SPOOL)
        for suffix in sqlite_files.SUFFIXES
    ]
    return [path for path in [*files_of_databases, *kept_files(instance)] if path.exists()]


def _put_in_place(settings: Settings, folder: Path, names: dict[str, str]) -> None:
    """The database last: until then no server starts to work on half of it."""
    database, instance = database_file(settings), settings.instance_dir.resolve()
    for name in sorted(names, key=lambda name: name == DATABASE):
        target = database if name == DATABASE else instance / name
        _move(folder / name, target)
        files.sync_folder(target.parent)


def _move(source: Path, target: Path) -> None:
    """Rename, or copy where the target lies on another disk."""
    try:
        os.replace(source, target)  # noqa: PTH105 - as the lines around it are read
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        try:
            shutil.copyfile(source, target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        source.unlink()


def _say_what_is_aside(aside: Path, settings: Settings) -> None:
    say(printable_line(f"What was there is in {aside}: remove it once you need it no more."))
    spool = Spool(aside, settings.spool_limit)
    left = spool.depth().reports
    spool.close()
    if left:
        database = f"sqlite:///{database_file(settings)}"
        say(f"{left} callbacks wait in its spool; this stores them in the restored database:")
        say(printable_line(f"  INSTANCE_DIR={quote(str(aside))} DATABASE_URL={quote(database)} esms-calls spool drain"))
