"""The command completeness: what became of every call, and what was never heard of."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import click

from webapp.cli.context import (
    DONE,
    PROBLEM,
    CliContext,
    Time,
    hint_at_commas,
    open_context,
    print_columns,
    print_table,
    printable,
)
from webapp.esms.registrations import Lines
from webapp.reconcile.run import due_at
from webapp.storage.ledger import Counts, Ledger, ledger
from webapp.storage.reader import Filter
from webapp.support import progress as terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_AT_ONCE = 1000
_HEADERS = {
    "calls": "calls",
    "settled_by_callback": "settled by\ncallback",
    "settled_by_lookup": "settled by\nlookup",
    "gave_up": "given\nup",
    "missing_within_grace": "missing\nin grace",
    "missing_beyond_grace": "missing\nbeyond",
    "confirmed": "confirmed",
    "conflict": "in\nconflict",
    "never_registered": "never\nregistered",
    "lost_and_recovered": "lost,\nrecovered",
}


@click.command()
@click.option("--by", type=click.Choice(["day", "campaign"]), help="Count each day (in TIME_ZONE) or each campaign.")
@click.option("--since", type=Time(), help="Only calls placed at this time or later, such as 2026-11-23.")
@click.option("--until", type=Time(), help="Only calls placed before this time.")
@click.option("--campaign", help="Only calls of this campaign.", metavar="NAME")
@click.option(
    "--expect",
    type=click.File("rb"),
    help="Name the ids of this list for which the store has no call at all; - is standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --by a list of objects.")
def completeness(
    *,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
    campaign: str | None,
    expect: BinaryIO | None,
    as_json: bool,
) -> None:
    """Account for every call: settled, given up or missing, in sums that match.

    \b
    calls is the sum of
      settled_by_callback   by its first final report
      settled_by_lookup     likewise
      gave_up               eSMS had no final answer in RECONCILE_GIVE_UP
      missing_within_grace  placed less than RECONCILE_GRACE ago
      missing_beyond_grace  placed longer ago: a callback should have come
    and, overlapping with these,
      confirmed             eSMS was asked and gave a final answer
      conflict              a callback disagrees, and eSMS has not decided since
      never_registered      known from reports only
      lost_and_recovered    settled by lookup, and no final callback ever came

    Besides, unless --by is given, the twins are named: pairs of an id that was registered and never heard of and one
    that was heard of and never registered, which are equal but for punctuation (eSMS's own pages drop dashes). Every
    pair that matches is named, and none is merged. --since, --until and --campaign choose among the registered ones.

    The list of --expect is what was placed: one id a line, or a CSV as `register` takes it. Case, surrounding
    blanks, blank lines, a BOM and repetitions do not count. It is compared with all calls that are stored, whatever
    --since, --until and --campaign say, and does not go together with --by.

    With --json, twins is a list of pairs [registered id, heard-of id], and never_heard_of, which is there only with
    --expect, a list of ids in the order of the given one. With --by, there is a list of objects, in order, each with
    its day (2026-11-23) or campaign (null, the last: none), and without those two.

    \b
    Exit codes:
      0  done, whatever was counted: `status` tells what needs a person
      1  with --expect: some ids were never heard of, or lines could not be read
      2  usage or settings
      4  the database cannot be reached
    """  # noqa: D301 - click wants the control character
    if by and expect:
        raise click.UsageError("--by and --expect do not go together.")
    if expect and expect.isatty():
        click.echo("Reading from the terminal; Ctrl-D on a line of its own ends it.", err=True)
    wanted = Filter(since=since, until=until, campaign=campaign)
    with open_context(writes=False) as context:
        placed_by = due_at(datetime.now(UTC), context.settings).placed_by
        with ledger(context.database, wanted, placed_by) as book:
            if by:
                groups = _groups(book, by, context)
                _show_groups(by, groups, as_json=as_json)
                sys.exit(DONE)
            expected = _Expected(expect, context, book) if expect else None
            with _progress("counting", beside=as_json):
                counts = book.whole()
            if as_json:
                _print_json(counts, book, expected)
            else:
                _print_words(counts, book, expected, filtered=wanted != Filter())
    sys.exit(PROBLEM if expected and (expected.unknown or expected.bad) else DONE)


def _progress(doing: str, *, beside: bool) -> AbstractContextManager[Callable[[int, str], None]]:
    """No bar on a terminal where one long line of JSON comes out."""
    if beside and sys.stdout.isatty():
        return nullcontext(lambda _done, _words: None)
    return terminal.progress(doing, None)


class _Expected:
    """The ids of a list, in its order, for which there is no call; memory grows only with those that are named."""

    def __init__(self, file: BinaryIO, context: CliContext, book: Ledger) -> None:
        self._lines = Lines(file.readline, context.settings.time_zone, self._on_bad)
        self._book = book
        self.read = self.bad = 0
        self.unknown: set[str] = set()

    def _on_bad(self, number: int, words: str) -> None:
        self.bad += 1
        sys.stderr.write(f"line {number}: {words}\n")

    def never_heard_of(self, *, beside: bool) -> Iterator[str]:
        """Each of them once, while the list is read."""
        ids = (registration.reference_id for registration in self._lines)
        with _progress("comparing", beside=beside) as tell:
            while portion := list(islice(ids, _AT_ONCE)):
                for reference_id in self._book.unknown(portion):
                    if reference_id not in self.unknown:
                        self.unknown.add(reference_id)
                        yield reference_id
                self.read += len(portion)
                tell(self.read, f"ids, {len(self.unknown)} never heard of")
        hint_at_commas(self._lines)


def _twins(counts: Counts, book: Ledger, *, beside: bool) -> Iterator[tuple[str, str]]:
    if counts.calls > counts.never_registered:
        with _progress("looking for twins", beside=beside):
            yield from book.twins()


def _print_json(counts: Counts, book: Ledger, expected: _Expected | None) -> None:
    """One object, its lists streamed: they may have millions of ids."""
    lists: dict[str, Iterable[object]] = {"twins": _twins(counts, book, beside=True)}
    if expected:
        lists["never_heard_of"] = expected.never_heard_of(beside=True)
    write = sys.stdout.write
    write(json.dumps(asdict(counts)).removesuffix("}"))
    for name, items in lists.items():
        write(f', "{name}": [')
        for place, item in enumerate(items):
            write(f"{', ' if place else ''}{json.dumps(item)}")
        write("]")
    write("}\n")


def _print_words(counts: Counts, book: Ledger, expected: _Expected | None, *, filtered: bool) -> None:
    if counts.calls:
        _print_counts(counts)
    else:
        click.echo(_nothing(filtered=filtered))
    pairs = (f"{registered}  {heard}" for registered, heard in _twins(counts, book, beside=False))
    found = _print_list("Twins (registered and never heard of, heard of and never registered):", pairs)
    if found:
        click.echo(f"twins: {found}; they are equal but for punctuation, and are not merged")
    if expected:
        _print_list("Never heard of:", expected.never_heard_of(beside=False))
        click.echo(f"never heard of: {len(expected.unknown)}; {expected.read} ids read, {expected.bad} bad lines")


def _print_counts(counts: Counts) -> None:
    rows = [
        ("calls", counts.calls),
        ("  settled by callback", counts.settled_by_callback),
        ("  settled by lookup", counts.settled_by_lookup),
        ("  given up", counts.gave_up),
        ("  missing", counts.missing_within_grace + counts.missing_beyond_grace),
        ("    within grace", counts.missing_within_grace),
        ("    beyond grace", counts.missing_beyond_grace),
        ("confirmed by eSMS", counts.confirmed),
        ("in conflict", counts.conflict),
        ("never registered", counts.never_registered),
    ]
    print_table("Completeness", rows)
    click.echo(
        f"callbacks lost and recovered: {counts.lost_and_recovered} (settled by lookup, and the callback never came)"
    )


def _nothing(*, filtered: bool) -> str:
    if filtered:
        return "No such calls are stored: see --since, --until and --campaign."
    return (
        "No calls are stored yet: `esms-calls register` says what was placed, "
        "and `esms-calls callback-url` prints where eSMS sends the results."
    )


def _print_list(title: str, lines: Iterator[str]) -> int:
    """Print the lines under a title, if there are any; how many there are."""
    number = 0
    # Not by click.echo, which would draw over a bar.
    for number, line in enumerate(lines, start=1):
        sys.stdout.write(f"{title}\n  {line}\n" if number == 1 else f"  {line}\n")
    return number


def _groups(book: Ledger, by: str, context: CliContext) -> list[tuple[str | None, Counts]]:
    """The groups in their order; the calls without a campaign are the last."""
    days = ((f"{day}", counts) for day, counts in book.by_day(context.settings.time_zone))
    found: list[tuple[str | None, Counts]] = []
    with terminal.progress("counting", None) as tell:
        done = 0
        for name, counts in days if by == "day" else book.by_campaign():
            found.append((name, counts))
            done += counts.calls
            tell(done, f"calls, {len(found)} {by}s")
    return sorted(found, key=lambda group: (group[0] is None, group[0] or ""))


def _show_groups(by: str, groups: list[tuple[str | None, Counts]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{by: name, **asdict(counts)} for name, counts in groups]))
    elif not groups:
        click.echo("No such calls are stored.")
    else:
        rows = [["(none)" if name is None else printable(name), *asdict(counts).values()] for name, counts in groups]
        total = ["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))]
        print_columns("Completeness", [by, *_HEADERS.values()], rows, total)
