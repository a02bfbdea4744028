"""The commands that take calls in and give them out: register, export, replay."""

from __future__ import annotations

import codecs
import csv
import json
import os
import sys
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from sqlalchemy.exc import DataError, IntegrityError

from webapp import esms, log, terminal
from webapp.commands.room import DONE, PROBLEM, Room, Time, hint_at_commas, open_room
from webapp.database import Declined
from webapp.intake import report_of
from webapp.models import calls
from webapp.registrations import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_AT_ONCE = 1000


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
def register(file: BinaryIO) -> None:
    """Register the calls that were placed, so that a missing callback is noticed. Repeatable.

    FILE (by default standard input) is a CSV in UTF-8 whose first line names the columns: reference_id, and
    if you like request_id, phone, campaign and placed_at (ISO 8601; without a zone it is in TIME_ZONE). Other
    columns are ignored. Or it holds one ReferenceId a line. Bad lines are named and skipped (exit code 1).

    \b
    Example:
      printf 'reference_id,phone,campaign\\n066107ee-6ec4-4283-b595-aa74977c65c5,0901888484,june\\n' \\
        | esms-calls register
    """  # noqa: D301 - click wants the control character
    bad = registered = known = 0

    def on_bad(number: int, words: str) -> None:
        nonlocal bad
        bad += 1
        sys.stderr.write(f"line {number}: {words}\n")

    if file.isatty():
        click.echo("Reading from the terminal; Ctrl-D on a line of its own ends it.", err=True)

    with open_room() as room, terminal.progress("registering", None) as tell:
        lines = Lines(file.readline, room.settings.time_zone, on_bad)
        registrations = iter(lines)
        try:
            while portion := list(islice(registrations, _AT_ONCE)):
                new, old = room.store.register(portion, datetime.now(UTC))
                registered, known = registered + new, known + old
                tell(registered + known, f"calls, {bad} bad lines")
        finally:
            sys.stdout.write(f"registered {registered}, already known {known}, bad lines {bad}\n")
    if lines.header_ignored:
        click.echo(f"ignored columns: {', '.join(lines.header_ignored)}", err=True)
    hint_at_commas(lines)
    sys.exit(PROBLEM if bad else DONE)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
    help="CSV with a header; JSON Lines: one object a line; or Parquet, typed and small.",
)
@click.option("--since", type=Time(), help="Only calls placed at this time or later, such as 2026-11-23.")
@click.option("--until", type=Time(), help="Only calls placed before this time.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write to this file, whole or not at all; - is standard output.  [default: -]",
)
def export(form: str, since: datetime | None, until: datetime | None, output: Path | None) -> None:
    """Write calls as CSV, JSON Lines or Parquet, oldest placed first, to standard output or a file.

    Times are UTC, prices have four decimals, and what was not said is empty (CSV) or null. Times that you give
    are ISO 8601, a date or a time; without a zone they are in TIME_ZONE.
    """
    output = None if output == Path("-") else output
    write = _writer(form)
    with open_room(writes=False) as room, _target(output) as target:
        if form == "parquet" and target.isatty():
            raise click.UsageError("Parquet is nothing for a terminal: use --output, or send it elsewhere.")
        total, done = room.queries.count(since, until), 0

        def counted() -> Iterator[dict[str, Any]]:
            nonlocal done
            for done, call in enumerate(found, start=1):
                yield call
                if done % _AT_ONCE == 0 or done == total:
                    tell(done, "calls")

        with closing(room.queries.export(since, until)) as found, _progress_beside(target, total) as tell:
            write(counted(), target)
    if output:
        click.echo(f"{done} calls written to {output}", err=True)


def _progress_beside(target: BinaryIO, total: int) -> AbstractContextManager[Callable[[int, str], None]]:
    """No bar on a terminal where the calls themselves are seen running by."""
    if target.isatty():
        return nullcontext(lambda _done, _words: None)
    return terminal.progress("exporting", total)


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that is there whole or as it was before; a device or pipe is written as it is."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    path = output.resolve()
    whole = path.is_file() or not path.exists()
    draft = path.with_name(f".{path.name}.{os.getpid()}") if whole else path
    try:
        file = draft.open("wb")
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from None
    try:
        with file:
            yield file
        if whole:
            draft.replace(path)
    except BaseException:
        if whole:
            draft.unlink()
        raise


def _write_csv(rows: Iterable[dict[str, Any]], target: BinaryIO) -> None:
    # Whatever the locale says: names of campaigns are Vietnamese.
    text = codecs.getwriter("utf-8")(target)
    writer = csv.DictWriter(text, calls.columns.keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(call | {"conflict": str(call["conflict"]).lower()} for call in rows)


def _write_jsonl(rows: Iterable[dict[str, Any]], target: BinaryIO) -> None:
    target.writelines(f"{json.dumps(call, ensure_ascii=False)}\n".encode() for call in rows)


def _writer(form: str) -> Callable[[Iterable[dict[str, Any]], BinaryIO], None]:
    if form != "parquet":
        return {"csv": _write_csv, "jsonl": _write_jsonl}[form]
    try:
        from webapp import parquet  # noqa: PLC0415 - it needs what is not always there, and takes a third of a second
    except ImportError as error:
        words = f"Parquet needs pyarrow ({error}): pip install 'esms-calls[parquet]'"
        raise click.BadParameter(words, param_hint="--format") from error
    return parquet.write


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; name the calls that differ, exit code 1 if there are any.")
@click.option(
    "--rejected", is_flag=True, help="Read the rejected callbacks again, and store those that can be read now."
)
@click.option("--since", type=Time(), help="With --rejected: only those that came at this time or later.")
def replay(*, check: bool, rejected: bool, since: datetime | None) -> None:
    """Fold the whole history again by the rule, and put calls right that differ from it.

    With --rejected: read rejected callbacks again, after an upgrade that can read them. Both are safe to repeat.
    """
    if check and rejected:
        raise click.UsageError("--check and --rejected do not go together.")
    if since and not rejected:
        raise click.UsageError("--since goes with --rejected.")
    with open_room(writes=not check) as room:
        if rejected:
            _replay_rejected(room, since)
            return
        differing = _replay_history(room, check_only=check)
    sys.exit(PROBLEM if check and differing else DONE)


def _replay_history(room: Room, *, check_only: bool) -> int:
    done = differing = 0
    with terminal.progress("replaying", None) as tell:
        for portion in room.queries.reference_ids():
            found = room.store.refold(portion, datetime.now(UTC), check_only=check_only)
            sys.stdout.writelines(f"{reference_id}\n" for reference_id in found)
            done, differing = done + len(portion), differing + len(found)
            tell(done, f"calls, {differing} differ")
    verb = "differ from their history" if check_only else "differed from their history and were put right"
    click.echo(f"{done} calls read, {differing} {verb}", err=True)
    return differing


def _replay_rejected(room: Room, since: datetime | None) -> None:
    stored = unreadable = 0
    clean = log.without(room.settings.secrets())
    for rejected in room.queries.rejected(since):
        try:
            report = report_of(rejected, clean)
            effect = room.store.replay_rejected(report, datetime.now(UTC))
        except (ValueError, esms.Unreadable, DataError, IntegrityError, Declined):
            unreadable += 1
            continue
        stored += 1
        click.echo(f"{report.reference_id} {effect}")
    click.echo(f"{stored} rejected callbacks stored, {unreadable} still cannot be read", err=True)
