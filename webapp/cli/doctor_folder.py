"""Doctor's checks of the folders: owner, modes, file system, disk space, and what waits in the spool."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from webapp.callbacks.spool import SpoolError
from webapp.cli.context import spool_of
from webapp.cli.doctor_check import failed, ok, skipped, warning
from webapp.cli.status_needs import LEAST_FREE_BYTES, is_filling
from webapp.cli.time_words import duration
from webapp.support.file_systems import ephemeral_filesystem, network_filesystem
from webapp.support.sizes import size_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.cli.doctor_check import Check
    from webapp.support.settings import Settings

_COMFORTABLE_BYTES = 1 << 30
_OTHERS_READ, _OTHERS_WRITE = stat.S_IRWXG | stat.S_IRWXO, stat.S_IWGRP | stat.S_IWOTH
_SPOOL_WAITS = timedelta(minutes=1)


def folder_checks(settings: Settings) -> Iterator[Check]:
    """The checks of the instance folder, and of the folder of the SQLite file where that is another one."""
    folders = {settings.instance_dir.resolve(): "INSTANCE_DIR"}
    if settings.is_embedded:
        folders.setdefault(Path(str(make_url(settings.database).database)).absolute().parent, "DATABASE_URL")
    for folder, setting in folders.items():
        suffix = "" if setting == "INSTANCE_DIR" else " of the database"
        yield _owner(f"folder{suffix}", folder, setting)
        if folder.is_dir():
            if not suffix:
                yield _modes(folder)
            yield _file_system(f"file system{suffix}", folder, setting, settings)
            yield _disk_space(f"disk{suffix}", folder, settings)
    yield _spool(settings)


def _owner(name: str, folder: Path, setting: str) -> Check:
    if not folder.is_dir():
        parent = next(above for above in folder.parents if above.is_dir())
        if _may(parent, os.W_OK | os.X_OK):
            return skipped(name, f"{folder} does not exist yet", "`esms-calls serve` makes it")
        return failed(
            name, f"{folder} cannot be made, {parent} is not writable by {_user(os.geteuid())}", f"set {setting}"
        )
    owner = folder.stat().st_uid
    if not _may(folder, os.R_OK | os.W_OK | os.X_OK):
        return failed(
            name,
            f"{folder} cannot be written by {_user(os.geteuid())}, it belongs to {_user(owner)}",
            f"run this as the server's user, or `chown -R {_user(os.geteuid())} {folder}`; see too whether it is "
            "mounted read-only",
        )
    if strangers := [name for name, status in _files_in(folder).items() if status.st_uid != owner]:
        return failed(
            name,
            f"{folder} belongs to {_user(owner)}, and these files in it do not: {', '.join(strangers)}",
            f"chown -R {_user(owner)} {folder}; then run commands as that user only",
        )
    if owner != os.geteuid():
        return warning(
            name,
            f"{folder} belongs to {_user(owner)}, and this is run by {_user(os.geteuid())}",
            f"run commands as the server's user: what another one makes there, {_user(owner)} cannot write",
        )
    return ok(name, f"{folder} belongs to {_user(owner)}, who can write it")


def _modes(folder: Path) -> Check:
    if not _may(folder, os.R_OK | os.X_OK):
        return skipped("modes", f"{folder} cannot be read by {_user(os.geteuid())}")
    modes = {str(folder): folder.stat().st_mode} | {name: status.st_mode for name, status in _files_in(folder).items()}
    wide = {name: mode for name, mode in modes.items() if mode & _OTHERS_READ}
    if not wide:
        return ok("modes", "folder and files are for their user alone")
    names = ", ".join(f"{name} ({stat.S_IMODE(mode):o})" for name, mode in wide.items())
    remedy = f"chmod -R go= {folder}"
    if any(mode & _OTHERS_WRITE for mode in wide.values()):
        return failed("modes", f"other users of this machine may change what holds tokens or calls: {names}", remedy)
    return warning("modes", f"other users of this machine may read what holds tokens or calls: {names}", remedy)


def _file_system(name: str, folder: Path, setting: str, settings: Settings) -> Check:
    if not (settings.spool or settings.is_embedded):
        return skipped(name, "neither SQLite nor a spool is in use")
    if kind := network_filesystem(folder):
        return failed(
            name,
            f"{folder} lies on {kind}, where locks do not hold: SQLite and the spool can be damaged",
            f"set {setting} to a folder on a disk of this machine; for several machines use PostgreSQL",
        )
    if kind := ephemeral_filesystem(folder):
        return warning(
            name,
            f"{folder} lies on {kind}, which may not last",
            f"set {setting} to a folder on a lasting disk or volume",
        )
    return ok(name, "a disk of this machine")


def _disk_space(name: str, folder: Path, settings: Settings) -> Check:
    free = shutil.disk_usage(folder).free
    found = os.statvfs(folder)
    words = f"{size_in_words(free)} free where {folder} lies"
    if found.f_files and not found.f_favail:
        return failed(
            name, f"no file can be made where {folder} lies (out of inodes)", "remove files that are not used"
        )
    if free < LEAST_FREE_BYTES:
        return failed(name, words, "make space: callbacks are answered 503 once it is full")
    wanted = max(settings.spool_limit if settings.spool else 0, _COMFORTABLE_BYTES)
    if free < wanted:
        words += f", and a spool may need {size_in_words(wanted)}"
        return warning(name, words, "make space, or lower SPOOL_LIMIT")
    return ok(name, words)


def _spool(settings: Settings) -> Check:
    try:
        depth = spool_of(settings).depth()
    except SpoolError as error:
        return failed("spool", str(error), "run this as the server's user; if you do, check INSTANCE_DIR and its disk")
    age = timedelta(seconds=depth.oldest_seconds(datetime.now(UTC)))
    words = f"{depth.reports} callbacks wait, the oldest for {duration(age)}"
    if settings.spool and is_filling(depth, settings.spool_limit):
        return failed(
            "spool",
            f"{words}: {size_in_words(depth.size)} of {size_in_words(settings.spool_limit)} (SPOOL_LIMIT); beyond that "
            "callbacks are answered 503",
            "see `database` here; to gain time set a higher SPOOL_LIMIT, if `disk` has space, and restart",
        )
    if depth.reports and (age > _SPOOL_WAITS or not settings.spool):
        return failed(
            "spool",
            f"{words}; they are safe on this disk",
            "see `database` here and the server's log; without a server run `esms-calls spool drain`",
        )
    if not settings.spool:
        return skipped("spool", "SPOOL=off: callbacks are answered 503 while the database is away")
    return ok("spool", words if depth.reports else "nothing waits")


def _files_in(folder: Path) -> dict[str, os.stat_result]:
    """The files in the folder; SQLite's may be gone any moment."""
    found = {}
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            with suppress(OSError):
                found[path.name] = path.lstat()
    return {name: status for name, status in found.items() if stat.S_ISREG(status.st_mode)}


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _may(folder: Path, mode: int) -> bool:
    return os.access(folder, mode, effective_ids=True)
