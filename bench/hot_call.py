"""``make bench-hot``: whether the 100,000th report of one and the same call costs more than its 100th.

Both calls are reported in turns, in one table, so that nothing but the length of their histories differs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.receive import fresh_postgresql, tell
from bench.table import Outcome, Row, machine, milliseconds
from webapp.calls.report import StatusReport
from webapp.esms.parameters import new_id
from webapp.storage.database import Database
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1.2
_FILL_AT_ONCE = 1_000
_STEP = timedelta(milliseconds=10)
_LONG_AGO = timedelta(days=1)
_OVERTAKEN_BY = 5
_LONGEST_SECONDS = 120
_FEWEST_BATCHES = 3


@dataclass(slots=True)
class Caller:
    """One call, and the reports that are made about it, each received a little after the one before."""

    reference_id: str
    now: datetime
    number: int = 0

    def report(self, **said: object) -> StatusReport:
        """A final callback, received now unless another time is said."""
        self.number += 1
        if "received_at" not in said:
            self.now += _STEP
        fields: dict[str, object] = {
            "call_status": "ANSWERED",
            "call_duration": 12,
            "send_status": 5,
            "sent_result": 1,
            "price": Decimal("450.0000"),
            "cid": "02871002454",
            "source": "callback",
            "received_at": self.now,
        }
        return StatusReport(id=new_id(), reference_id=self.reference_id, **(fields | said))  # type: ignore[arg-type]

    def overtaken_at(self) -> datetime:
        """A time before that of the newest few reports, another one each time."""
        return self.now - _OVERTAKEN_BY * _STEP + timedelta(microseconds=self.number % 5_000 + 1)


def in_order(caller: Caller) -> StatusReport:
    """Newer than all before it, and changing the call."""
    return caller.report(price=Decimal(caller.number))


def repeated(caller: Caller) -> StatusReport:
    """The same again."""
    return caller.report()


def overtaken(caller: Caller) -> StatusReport:
    """Received before a few that are stored already, as happens all the time between two workers."""
    return caller.report(received_at=caller.overtaken_at())


def overtaken_progress(caller: Caller) -> StatusReport:
    """Not final, and overtaken."""
    return caller.report(received_at=caller.overtaken_at(), send_status=7, call_status=None)


def oldest(caller: Caller) -> StatusReport:
    """Received before all that is known, as from a spool that was drained late."""
    return caller.report(received_at=caller.now - _LONG_AGO - caller.number * _STEP)


def disagreeing(caller: Caller) -> StatusReport:
    """Another outcome than the one that eSMS confirmed when asked, at the beginning."""
    return caller.report(call_status="NOANSWERED", call_duration=caller.number % 60)


def disagreeing_overtaken(caller: Caller) -> StatusReport:
    """Another outcome than the confirmed one, and overtaken."""
    said = {"call_status": "NOANSWERED", "call_duration": caller.number % 60}
    return caller.report(received_at=caller.overtaken_at(), **said)


def _confirming(caller: Caller) -> StatusReport:
    return caller.report(source="lookup", lookup_code="100", price=None, cid=None)


@dataclass(frozen=True, slots=True)
class Kind:
    """Reports of one kind: what they are called, how each is made, and what makes up the history before them."""

    name: str
    make: Callable[[Caller], StatusReport]
    before: Callable[[Caller], StatusReport] = repeated
    confirmed: bool = False


KINDS = (
    Kind("in order", in_order, in_order),
    Kind("repeated", repeated),
    Kind("late", overtaken),
    Kind("late, not final", overtaken_progress),
    Kind("older than all", oldest),
    Kind("disagreeing with a confirmed call", disagreeing, disagreeing, confirmed=True),
    Kind("disagreeing and late", disagreeing_overtaken, disagreeing, confirmed=True),
)


def measure(
    writer: Writer, kind: Kind, *, short: int, long: int, batches: int, batch: int
) -> tuple[list[float], list[float]]:
    """Seconds that each batch took: of a call with ``long`` reports, and of one with ``short``, in turns.

    A few reports come before each batch, unmeasured, so that there is something to be late for.
    """
    calls = []
    for name, reports in (("short", short), ("long", max(short, long - batches * (batch + _OVERTAKEN_BY)))):
        caller = Caller(f"{name}-{new_id()}", datetime.now(UTC) - timedelta(days=2))
        if kind.confirmed:
            writer.record([caller.report(), _confirming(caller)], caller.now)
        for first in range(0, reports, _FILL_AT_ONCE):
            portion = [kind.before(caller) for _ in range(min(_FILL_AT_ONCE, reports - first))]
            writer.record(portion, caller.now)
        calls.append((caller, list[float]()))
    until = time.monotonic() + _LONGEST_SECONDS
    for number in range(batches):
        if number >= _FEWEST_BATCHES and time.monotonic() > until:
            tell(f"{kind.name}: so slow that only {number} of {batches} batches were measured")
            break
        for caller, took in calls:
            writer.record([kind.before(caller) for _ in range(_OVERTAKEN_BY)], caller.now)
            portion = [kind.make(caller) for _ in range(batch)]
            started = time.perf_counter()
            writer.record(portion, caller.now)
            took.append(time.perf_counter() - started)
    [(_, of_short), (_, of_long)] = calls
    return of_long, of_short


@contextmanager
def _stores(folder: Path) -> Iterator[dict[str, Writer]]:
    with fresh_postgresql() as url:
        databases = {"PostgreSQL": Database(url), "SQLite": Database(f"sqlite:///{folder / 'calls.db'}")}
        for database in databases.values():
            database.migrate()
        yield {name: Writer(database) for name, database in databases.items()}
        for database in databases.values():
            database.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--short", default=100, type=click.IntRange(1), show_default=True, help="Reports of the one call.")
@click.option("--long", default=100_000, type=click.IntRange(1), show_default=True, help="Reports of the other.")
@click.option("--batches", default=100, type=click.IntRange(1), show_default=True, help="Batches to measure.")
@click.option("--batch", default=10, type=click.IntRange(1), show_default=True, help="Reports in a batch.")
@click.option("--quick", is_flag=True, help="2,000 reports and 20 batches, to see that it works.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to this file, too.")
def main(*, short: int, long: int, batches: int, batch: int, quick: bool, markdown: Path | None) -> None:
    """Measure what one more report of a call costs when its history is long, against when it is short.

    Through the store itself, on both databases. BENCH_DATABASE_URL names a PostgreSQL on which databases may be made.
    Exit code 1: a limit was missed.
    """
    if quick:
        long, batches = 2_000, 20
    outcome = Outcome(notes=[machine(), f"{batches} batches of {batch} reports each, in turns"])
    with tempfile.TemporaryDirectory(prefix="esms-calls-bench-") as folder, _stores(Path(folder)) as stores:
        for name, writer in stores.items():
            for kind in KINDS:
                above, below = measure(writer, kind, short=short, long=long, batches=batches, batch=batch)
                row = Row(
                    name=f"{kind.name}: {long:,}th report / {short:,}th",
                    database=name,
                    above=above,
                    below=below,
                    show=milliseconds,
                    limit=LIMIT,
                    at_least=False,
                )
                outcome.rows.append(row)
                tell(f"{name}, {kind.name}: {row.ratio:.2f}")
    outcome.print()
    if markdown:
        markdown.write_text(outcome.markdown())
    sys.exit(not outcome.good and not quick)


if __name__ == "__main__":
    main()
