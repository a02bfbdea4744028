"""The command replay: folds the stored history again, or reads again what could not be read."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from sqlalchemy.exc import DataError, IntegrityError

from webapp.callbacks.parsing import report_from_request
from webapp.cli.context import CliContext, open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.options import Time
from webapp.cli.output import printable_line, say, say_all
from webapp.esms import parameters
from webapp.esms.stored import read_again
from webapp.storage.errors import WriteFailed
from webapp.support.progress import progress
from webapp.support.token_redaction import TokenRedactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.storage.locked_calls import Refolded


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; name the calls that differ, exit code 1 if there are any.")
@click.option("--rejected", is_flag=True, help="Read rejected callbacks again, and store those that can be read now.")
@click.option("--unread", is_flag=True, help="Read again the payloads of reports with values that could not be read.")
@click.option("--since", type=Time(), help="With --rejected or --unread: only those received at this time or later.")
def replay(*, check: bool, rejected: bool, unread: bool, since: datetime | None) -> None:
    """Fold the whole history again by the rule, and correct the calls that differ from it.

    With --rejected: read rejected callbacks again, after an upgrade that can read them. With --unread: read values
    again that could not be read (the column unread of status_reports), and fold their calls. All are safe to repeat.

    The ids of calls that changed are printed, one a line; what changed in them is summed up on standard error.
    """
    if check + rejected + unread > 1:
        raise click.UsageError("--check, --rejected and --unread do not go together.")
    if since and not (rejected or unread):
        raise click.UsageError("--since goes with --rejected or --unread.")
    with open_context(writes=not check) as context:
        if rejected:
            _replay_rejected(context, since)
            return
        if unread:
            _replay_unread(context, since)
            return
        differing = _replay_history(context, check_only=check)
        if not check:
            context.writer.end_due_replay()
    sys.exit(PROBLEM if check and differing else DONE)


class _Changes:
    """Prints the ids of calls that differ, and sums up in what."""

    def __init__(self) -> None:
        self.calls = 0
        self._columns: Counter[str] = Counter()
        self._outcomes: Counter[tuple[str, str]] = Counter()

    def add(self, found: Iterable[Refolded]) -> None:
        for one in found:
            self.calls += 1
            self._columns.update(one.columns)
            if one.outcomes:
                self._outcomes[one.outcomes] += 1
            say_all([printable_line(one.reference_id)])

    def show(self, read: str, verb: str) -> None:
        say(f"{read}, {self.calls} {verb}", err=True)
        for (before, after), number in self._outcomes.most_common():
            say(f"  outcome {before} -> {after}: {number}", err=True)
        if self._columns:
            columns = ", ".join(f"{name} {number}" for name, number in self._columns.most_common())
            say(f"  by column: {columns}", err=True)


def _replay_history(context: CliContext, *, check_only: bool) -> int:
    done, changes = 0, _Changes()
    with progress("replaying", None) as show:
        for portion in context.reader.reference_ids():
            changes.add(context.writer.refold(portion, datetime.now(UTC), check_only=check_only))
            done += len(portion)
            show(done, f"calls, {changes.calls} differ")
    verb = "differ from their history" if check_only else "differed from their history and were corrected"
    changes.show(f"{done} calls read", verb)
    return changes.calls


def _replay_unread(context: CliContext, since: datetime | None) -> None:
    done = changed = 0
    changes = _Changes()
    with progress("reading again", None) as show:
        for portion in context.reader.unread(since):
            again = [new for old in portion if (new := read_again(old)) != old]
            if again:
                changes.add(context.writer.read_again(again, datetime.now(UTC)))
            done, changed = done + len(portion), changed + len(again)
            show(done, f"reports, {changed} read otherwise")
    changes.show(f"{done} reports with unread values, {changed} are read otherwise now", "calls changed")


def _replay_rejected(context: CliContext, since: datetime | None) -> None:
    stored = unreadable = other = 0
    redact = TokenRedactor(context.settings.known_callback_tokens())
    for rejected in context.reader.rejected(since):
        try:
            report = report_from_request(rejected, redact)
            effect = context.writer.replay_rejected(report, datetime.now(UTC))
        except (ValueError, parameters.Unreadable, DataError, IntegrityError, WriteFailed):
            unreadable += 1
            continue
        if effect is None:
            other += 1
            continue
        stored += 1
        say(f"{printable_line(report.reference_id)} {effect}")
    channels = f", {other} are messages of other channels" if other else ""
    say(f"{stored} rejected callbacks stored, {unreadable} still cannot be read{channels}", err=True)
