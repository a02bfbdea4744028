"""The command backup: writes the embedded database, the spool and the tokens into one file, while the server runs."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from shlex import quote

import click
from sqlalchemy import URL, make_url

from webapp.callbacks.spool import Spool
from webapp.cli.context import spool_of
from webapp.cli.output import printable_line, say
from webapp.storage import sqlite_files
from webapp.storage.errors import NotMigrated
from webapp.support import archive
from webapp.support.database_url import is_user_public, secrets_in
from webapp.support.settings import ENV_FILE, Settings, load_settings
from webapp.support.sizes import size_in_words

DATABASE, SPOOL = "calls.db", "spool.db"
"""The names of the databases in an archive, whatever they are called outside it."""
_ALSO_BACKED_UP = ("*_token*", "*_key*", "spool-corrupt-*")
"""What else of the instance folder is kept: tokens, keys, and callbacks that were set aside."""
_PORTION = 1000


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE, if there is one.")
def backup(file: Path, *, force: bool) -> None:
    """Write calls, spool and tokens into FILE, while the server runs; for the embedded SQLite.

    FILE is one archive (tar, compressed), for its owner alone: it holds the calls and the tokens. Everything that was
    answered 200 before the command began is in it. It is checked before FILE appears, and again by `restore`. The free
    space that this takes beside FILE is the size of the database and a quarter more; FILE itself is the quarter.

    On PostgreSQL the command says which pg_dump does the same. Settings (.env, environment) are never in FILE.
    """
    settings = load_settings()
    if not settings.is_embedded:
        raise click.UsageError(postgresql_words(settings))
    source = database_file(settings)
    if not source.exists():
        raise NotMigrated(f"{source} does not exist: run this in the working folder of the server, with its settings.")
    if file.exists() and not force:
        raise click.UsageError(f"{file} exists already: choose another name, or --force.")
    if not file.absolute().parent.is_dir():
        raise click.UsageError(f"{file.absolute().parent} is no folder.")
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".esms-calls-backup-") as folder:
        _back_up(settings, source, file.absolute(), Path(folder), force=force)
    _hint_at_settings(settings)


def _back_up(settings: Settings, source: Path, file: Path, folder: Path, *, force: bool) -> None:
    # The spool first: a callback that is drained meanwhile is then in both, and storing it twice does nothing.
    spooled = _copy_spool(settings, folder)
    sqlite_files.copy(source, folder / DATABASE)
    found = sqlite_files.holds(folder / DATABASE)
    members = {DATABASE: folder / DATABASE}
    if spooled:
        members[SPOOL] = folder / SPOOL
    kept = {path.name: path for path in kept_files(settings.instance_dir.resolve())}
    about = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("esms-calls"),
        "spooled": spooled,
        **found._asdict(),
    }
    archive.write(file, members | kept, about, replace=force)
    say(printable_line(f"{file}: {size_in_words(file.stat().st_size)}, {contents_in_words(about, kept)}"))


def contents_in_words(about: dict[str, object], names: object) -> str:
    """What a backup holds, in one line."""
    others = sorted(set(names) - {DATABASE, SPOOL})  # type: ignore[call-overload]
    numbers = f"{about['calls']} calls, {about['reports']} reports, {about['spooled']} callbacks of the spool"
    return ", ".join([numbers, *others])


def database_file(settings: Settings) -> Path:
    """The file of the embedded database."""
    return Path(str(make_url(settings.database).database)).absolute()


def _copy_spool(settings: Settings, folder: Path) -> int:
    """Copy what waits in the spool, in portions: nothing that arrives is delayed. How many callbacks."""
    source, target = spool_of(settings), Spool(folder, limit=1 << 62)
    copied = position = 0
    while rows := source.oldest(_PORTION, after=position):
        target.append([request for _, request in rows])
        copied, position = copied + len(rows), rows[-1][0]
    source.close()
    target.close()
    return copied


def kept_files(folder: Path) -> list[Path]:
    """The files in the folder that belong in a backup, besides the databases."""
    found = {path for pattern in _ALSO_BACKED_UP for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not path.name.startswith("."))


def _hint_at_settings(settings: Settings) -> None:
    given = [name.upper() for name in ("callback_token", "api_token") if getattr(settings, name) is not None]
    if Path(ENV_FILE).is_file():
        say(f"Not in it: {Path(ENV_FILE).absolute()}. Keep a copy of it, too.", err=True)
    elif given:
        say(f"Not in it: settings of the environment ({', '.join(given)} among them). Keep them, too.", err=True)


def postgresql_words(settings: Settings) -> str:
    """What to do on PostgreSQL; the password is left out."""
    name = _without_secrets(make_url(settings.database)).render_as_string()
    folder = settings.instance_dir.resolve()
    return (
        "The database is PostgreSQL: its own programs back it up, while the server runs.\n"
        f"  backup:   pg_dump --format=custom --file=calls.dump {quote(name)}\n"
        f"  restore:  pg_restore --clean --if-exists --no-owner --dbname={quote(name)} calls.dump\n"
        "They ask for the password, or take it from PGPASSWORD or ~/.pgpass; PGUSER is the user where none is named.\n"
        f"Spool and tokens are in {folder}: tar -czf instance.tar.gz -C {quote(str(folder))} .\n"
        "docs/operations.md says more."
    )


def _without_secrets(url: URL) -> URL:
    secrets = secrets_in(url)
    options = {name: value for name, value in url.query.items() if not any(one in str(value) for one in secrets)}
    user = url.username if is_user_public(url) else None
    return url.set(drivername="postgresql", query=options)._replace(username=user, password=None)
