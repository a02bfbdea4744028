"""The command doctor: looks at everything that a server needs, and says what to do about each thing that is wrong."""

from __future__ import annotations

import sys
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING

import click

from webapp.cli.doctor_check import failed
from webapp.cli.doctor_database import database_checks, database_of, replica_checks
from webapp.cli.doctor_esms import esms_checks
from webapp.cli.doctor_folder import folder_checks
from webapp.cli.doctor_public import public_checks
from webapp.cli.doctor_settings import settings_checks
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.output import printable_line, say, say_json
from webapp.storage.database import Database
from webapp.support.provenance import origins
from webapp.support.redaction import redact
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.cli.doctor_check import Check
    from webapp.support.settings import Settings

_NAME_WIDTH, _RESULT_WIDTH = 25, 9


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(*, as_json: bool) -> None:
    """Look at everything that a server needs, and say what to do about what is wrong.

    Settings and where each comes from; the database, its encoding, migration, clock and time zone, and the last
    callback in it; the instance folder, its owner, modes, file system, disk and spool; the eSMS keys, by a look-up of a
    call that does not exist; PUBLIC_URL, by a request that stores nothing and shows that this very server answers;
    proxies.

    Each check is ok, a warning, failed or skipped; what is to do is in the line below it. The exit code is 1 if a check
    failed. Nothing is written, and no secret is shown. Run it as the server's user, in its folder, with its settings.
    """
    settings = load_settings()
    results = set()
    shown = []
    secrets = settings.secrets()
    for check in _redacted_checks(_checks(settings), secrets):
        results.add(check.result)
        shown.append(check._asdict())
        if not as_json:
            _show_check(check)
    rows = _settings_and_sources(settings, secrets)
    if as_json:
        _print_json(rows, shown, is_well="failed" not in results)
    else:
        _show_settings(rows)
    sys.exit(PROBLEM if "failed" in results else DONE)


def _checks(settings: Settings) -> Iterator[Check]:
    with database_of(settings) as database:
        yield from chain(
            _guarded("settings", settings_checks(settings)),
            _guarded("folder", folder_checks(settings)),
            _guarded("database", database_checks(settings, database)),
            _guarded("replica", replica_checks(settings)),
            _guarded("eSMS keys", esms_checks(settings)),
            _guarded("public URL", public_checks(settings, database)),
        )


def _guarded(name: str, checks: Iterator[Check]) -> Iterator[Check]:
    """The checks; what may not be looked at is a failed one, and the others go on."""
    try:
        yield from checks
    except OSError as error:
        found = f"{error.filename or 'something'} cannot be looked at: {error.strerror or error}"
        yield failed(name, found, "run this as the server's user, in its folder, with its settings")


def _redacted_checks(checks: Iterator[Check], secrets: tuple[str, ...]) -> Iterator[Check]:
    for check in checks:
        yield check._replace(found=redact(check.found, secrets), remedy=redact(check.remedy, secrets))


def _show_check(check: Check) -> None:
    say(printable_line(f"{check.result:<{_RESULT_WIDTH}}{check.name:<{_NAME_WIDTH}}{check.found}"))
    if check.remedy:
        say(printable_line(f"{'':<{_RESULT_WIDTH + _NAME_WIDTH}}-> {check.remedy}"))


def _settings_and_sources(settings: Settings, secrets: tuple[str, ...]) -> list[dict[str, str | None]]:
    """Every setting, its value where that is no secret, and its source."""
    known = {
        "DATABASE_URL": settings.database,
        "READ_DATABASE_URL": settings.read_database_url,
    }
    rows = []
    for name, value, source, _ in origins(settings):
        url = known.get(name)
        shown = Database(url).name if url else value
        rows.append({"name": name, "value": shown and redact(shown, secrets), "source": source})
    return rows


def _show_settings(rows: list[dict[str, str | None]]) -> None:
    say("\nSettings, and where each comes from:")
    for row in rows:
        value = "(not set)" if row["value"] is None else row["value"]
        say(printable_line(f"  {row['name']:<22}{value}  [{row['source']}]"))
    say(f"\nesms-calls {version('esms-calls')}")


def _print_json(rows: list[dict[str, str | None]], checks: list[dict[str, str]], *, is_well: bool) -> None:
    say_json(
        {
            "ok": is_well,
            "version": version("esms-calls"),
            "checks": checks,
            "settings": rows,
        }
    )
