"""The command completeness: accounts for every call, and names the ids of a list that the store does not have."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

import click

from webapp.cli.call_file import CallFile, say_how_to_end
from webapp.cli.context import CliContext, open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.options import placed_since, placed_until
from webapp.cli.output import printable_line, say, say_all, say_json, write_json
from webapp.cli.tables import print_columns, print_table
from webapp.storage.claims import due_at
from webapp.storage.filters import CallFilter
from webapp.storage.ledger import Counts, Ledger, ledger
from webapp.support.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_COLUMN_TITLES = {
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
    "answered": "answered",
    "unanswered": "unanswered",
    "other": "other",
    "rejected": "rejected",
    "delivered": "delivered",
    "unknown": "unknown",
}


@click.command()
@click.option("--by", type=click.Choice(["day", "campaign"]), help="Count each day (in TIME_ZONE) or each campaign.")
@placed_since
@placed_until
@click.option("--campaign", help="Only calls of this campaign.", metavar="NAME")
@click.option(
    "--expect",
    type=click.File("rb"),
    help="Name the ids of this list that the store does not have; - is standard input.",
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
      settled_by_callback   its first final report was a callback
      settled_by_lookup     its first final report was a lookup
      gave_up               eSMS had no final answer within RECONCILE_GIVE_UP
      missing_within_grace  placed less than RECONCILE_GRACE ago
      missing_beyond_grace  placed longer ago: its callback is overdue
    and, overlapping with these,
      confirmed             a final lookup came, too
      conflict              a callback disagrees, and no look-up has decided since
      never_registered      known from reports only
      lost_and_recovered    settled by a lookup, and no final callback ever came
    The settled calls are also counted by outcome:
      answered              the callee answered
      unanswered            the call failed, or the callee did not answer
      other                 another CallStatus
      rejected              eSMS rejected or deleted it
      delivered             a voice OTP that reached the phone (eSMS says no more of it)
      unknown               eSMS says no outcome

    Without --by, it also names twins: two ids that are equal but for punctuation (eSMS's own pages drop dashes), one of
    them registered and without any report, the other with reports and never registered. Every such pair is named, and
    none is merged. --since, --until and --campaign choose among the registered ids.

    The list of --expect is what was placed: one id a line, or a CSV as `register` takes it. Case, surrounding
    blanks, blank lines, a BOM and repetitions do not matter. It is compared with all stored calls, whatever --since,
    --until and --campaign say, and does not go together with --by. A file that has columns and no header is refused.

    With --json, twins is a list of pairs [registered id, reported id]; with --expect, never_heard_of is the list of ids
    that the store does not have, in the order of the given list. With --by, there is a list of objects, in order, each
    with its day (2026-11-23) or campaign (null, the last: none), without these two.

    \b
    Exit codes:
      0  done, whatever was counted: `status` says what needs a person
      1  with --expect: the store does not have some ids, or lines could not be read
      2  usage or settings
      4  the database cannot be reached
    """  # noqa: D301 - click wants the control character
    if by and expect:
        raise click.UsageError("--by and --expect do not go together.")
    if expect:
        say_how_to_end(expect)
    wanted = CallFilter(since=since, until=until, campaign=campaign)
    with open_context(writes=False) as context:
        overdue_until = due_at(datetime.now(UTC), context.settings).placed_until
        given = CallFile(expect, context.settings.time_zone) if expect else None
        with ledger(context.database, wanted, overdue_until) as book:
            if by:
                _show_groups(by, _count_groups(book, by, context), as_json=as_json)
                sys.exit(DONE)
            # One long line of JSON on a terminal leaves no place for a bar.
            hidden = as_json and sys.stdout.isatty()
            with progress("counting", None, hidden=hidden):
                counts = book.whole()
            twins = _twins(counts, book, hidden=hidden)
            expected = _Expected(given, book, hidden=hidden) if given else None
            if as_json:
                _stream_json(counts, twins, expected)
            else:
                _print_words(counts, twins, expected, filtered=wanted != CallFilter())
    sys.exit(PROBLEM if expected and (expected.unknown or expected.given.bad) else DONE)


class _Expected:
    """The ids of a list that the store does not have; memory grows only with these."""

    def __init__(self, given: CallFile, book: Ledger, *, hidden: bool) -> None:
        self.given = given
        self._book = book
        self._hidden = hidden
        self.read = 0
        self.unknown: set[str] = set()

    def find_unknown(self) -> Iterator[str]:
        """Each of them once, in the order of the list, while it is read."""
        with progress("comparing", None, hidden=self._hidden) as show:
            for portion in self.given.portions():
                for reference_id in self._book.unknown([call.reference_id for call in portion]):
                    if reference_id not in self.unknown:
                        self.unknown.add(reference_id)
                        yield reference_id
                self.read += len(portion)
                show(self.read, f"ids, {len(self.unknown)} unknown")


def _twins(counts: Counts, book: Ledger, *, hidden: bool) -> Iterator[tuple[str, str]]:
    if counts.calls > counts.never_registered:
        with progress("looking for twins", None, hidden=hidden):
            yield from book.twins()


def _stream_json(counts: Counts, twins: Iterator[tuple[str, str]], expected: _Expected | None) -> None:
    """One object, its lists streamed: they may have millions of ids."""
    lists: dict[str, Iterable[object]] = {"twins": twins}
    if expected:
        lists["never_heard_of"] = expected.find_unknown()
    write_json(json.dumps(asdict(counts)).removesuffix("}"))
    for name, items in lists.items():
        write_json(f', "{name}": [')
        for place, item in enumerate(items):
            write_json(f"{', ' if place else ''}{json.dumps(item)}")
        write_json("]")
    write_json("}\n")


def _print_words(
    counts: Counts, twins: Iterator[tuple[str, str]], expected: _Expected | None, *, filtered: bool
) -> None:
    if counts.calls:
        _print_counts(counts)
    else:
        say(_no_calls(filtered=filtered))
    pairs = (f"{registered}  {reported}" for registered, reported in twins)
    found = _print_list("Twins (registered and without a report; reported and not registered):", pairs)
    if found:
        say(f"twins: {found}; they are equal but for punctuation, and are not merged")
    if expected:
        _print_list("Unknown ids:", expected.find_unknown())
        say(f"unknown: {len(expected.unknown)}; {expected.read} ids read, {expected.given.bad} bad lines")


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
    share = counts.answered_share
    outcomes = [
        ("answered", counts.answered),
        ("unanswered", counts.unanswered),
        ("other CallStatus", counts.other),
        ("rejected", counts.rejected),
        ("delivered", counts.delivered),
        ("unknown", counts.unknown),
        ("answered share", "-" if share is None else f"{share:.1%}"),
    ]
    print_table("Outcomes of settled calls", outcomes)
    say(f"callbacks lost and recovered: {counts.lost_and_recovered} (settled by lookup, and the callback never came)")


def _no_calls(*, filtered: bool) -> str:
    if filtered:
        return "No such calls are stored: see --since, --until and --campaign."
    return (
        "No calls are stored yet: `esms-calls register` says what was placed, "
        "and `esms-calls callback-url` prints where eSMS sends the results."
    )


def _print_list(title: str, lines: Iterator[str]) -> int:
    """Print the lines under a title, if there are any; how many there are."""
    number = 0
    for number, line in enumerate(lines, start=1):
        say_all([title, f"  {printable_line(line)}"] if number == 1 else [f"  {printable_line(line)}"])
    return number


def _count_groups(book: Ledger, by: str, context: CliContext) -> list[tuple[str | None, Counts]]:
    """The groups in their order; the calls without a campaign are last."""
    days = ((f"{day}", counts) for day, counts in book.by_day(context.settings.time_zone))
    found: list[tuple[str | None, Counts]] = []
    with progress("counting", None) as show:
        done = 0
        for name, counts in days if by == "day" else book.by_campaign():
            found.append((name, counts))
            done += counts.calls
            show(done, f"calls, {len(found)} {by}s")
    return sorted(found, key=lambda group: (group[0] is None, group[0] or ""))


def _show_groups(by: str, groups: list[tuple[str | None, Counts]], *, as_json: bool) -> None:
    if as_json:
        say_json([{by: name, **asdict(counts)} for name, counts in groups])
    elif not groups:
        say("No such calls are stored.")
    else:
        rows = [["(none)" if name is None else name, *asdict(counts).values()] for name, counts in groups]
        total = ["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))]
        print_columns("Completeness", [by, *_COLUMN_TITLES.values()], rows, total)
