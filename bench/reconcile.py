"""``make bench-reconcile``: how fast reconcile runs are, and whether calls that are not missing make them slower.

Every figure is compared with a bound of the same run: the rate, what the look-ups' latency allows, or the same with
fewer calls.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine

from bench.fake_esms import Lookups, fake_esms, placed
from bench.fill import fill
from bench.programs import THIS
from bench.session import BEFORE, OURS, Session, session
from bench.setting import (
    DATABASES,
    Names,
    before_option,
    databases_option,
    interleave,
    markdown_option,
    patience_option,
    quick_option,
    report,
    unless_given,
)
from bench.table import Outcome, Row, mebibytes, milliseconds, per_second, whole
from webapp.storage import claims
from webapp.storage.claims import Due
from webapp.storage.database import Database
from webapp.storage.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.programs import Program
    from bench.receivers import Receiver

PARTS = ("speed", "processes", "missing", "memory")
LATENCY_SECONDS = 0.2
RATES, CONCURRENCIES = (10, 50), (8, 16)
PROCESSES = (1, 2, 4)
_RATE_OF_PROCESSES, _CONCURRENCY_OF_ONE = 100, 4
"""A rate that so few look-ups at the same time cannot reach: the number of processes is the bound."""
_CLAIMED_AT_ONCE = 16
_CLAIMS = 20
_LEASE = timedelta(minutes=1)
_MOST_MEMORY = 150 * 1024**2
_COUNTED_RUN = Path(__file__).with_name("counted_run.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done; the defaults of the options are those of a full run."""

    rounds: int
    patience: int
    seconds: int
    stored: int
    missing: int
    burst: int
    due: int
    asked: int
    few: int


QUICK = {"rounds": 1, "seconds": 2, "stored": 200_000, "burst": 5_000, "due": 5_000, "asked": 2_000, "few": 500}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: wall and processor seconds, most bytes of memory, statements and transactions, and its summary."""

    seconds: float
    processor: float
    peak: int
    statements: int
    transactions: int
    summary: Mapping[str, Any]

    @property
    def checked(self) -> int:
        """Look-ups that it charged."""
        return int(self.summary["checked"])


@dataclass(frozen=True, slots=True)
class Measurement:
    """Runs that began at the same time, and the look-ups that eSMS got from them."""

    lookups: Lookups
    runs: list[Run]

    @property
    def rate(self) -> float:
        """Look-ups a second, from the first that arrived to the last."""
        return self.lookups.rate

    @property
    def own_rate(self) -> float:
        """Look-ups a second by the run's own seconds, from its beginning to its end."""
        [run] = self.runs
        return run.checked / float(run.summary["seconds"])

    def __str__(self) -> str:
        """For progress."""
        return per_second(self.rate)


@dataclass(slots=True)
class Bench:
    """The session, and a seed for each measurement."""

    session: Session
    sizes: Sizes
    seed: int = 0

    def new_seed(self) -> int:
        """A seed that no other measurement has."""
        self.seed += 1
        return self.seed

    def row(self, kind: str, name: str, above: Sequence[float], below: Sequence[float], **more: Any) -> None:
        """Add a ratio."""
        self.session.outcome.rows.append(Row(name=name, database=DATABASES[kind], above=above, below=below, **more))


def program_of(bench: Bench, variant: str) -> Program:
    """The checkout that a variant runs."""
    before = bench.session.before
    return before if variant == BEFORE and before else THIS


def register(receiver: Receiver, program: Program, reference_ids: Sequence[str]) -> None:
    """Register calls as placed just now, so that they are missing."""
    subprocess.run(
        program.command("register"),
        input="".join(f"{reference_id}\n" for reference_id in reference_ids),
        stdout=subprocess.DEVNULL,
        env=os.environ | receiver.environment,
        cwd=receiver.folder,
        text=True,
        check=True,
    )


def reconcile(
    receiver: Receiver,
    program: Program,
    api_url: str,
    *options: str,
    runs: int = 1,
    rate: int,
    concurrency: int,
) -> list[Run]:
    """Runs that begin at the same moment and ask about all missing calls; raises RuntimeError if one fails."""
    environment = {
        **receiver.environment,
        "ESMS_API_URL": api_url,
        "ESMS_API_KEY": "any",
        "ESMS_SECRET_KEY": "any",
        "RECONCILE_RATE": str(rate),
        "RECONCILE_CONCURRENCY": str(concurrency),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", str(_COUNTED_RUN), *program.entry_point, "--older-than", "0s", *options],
            cwd=receiver.folder,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(runs)
    ]
    try:
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        return [_result(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _result(process: subprocess.Popen[str]) -> Run:
    printed, errors = process.communicate()
    run = Run(**json.loads(printed)) if printed else None
    if run is None or run.summary.get("outcome") != "done":
        raise RuntimeError(f"a run ended otherwise: {printed}\n{errors}")
    return run


def against_the_sandbox(
    bench: Bench, receiver: Receiver, program: Program, calls: int, runs: int, *, rate: int, concurrency: int
) -> Measurement:
    """Runs that ask the sandbox about calls of their own; calls asked about twice are faults."""
    seed = bench.new_seed()
    register(receiver, program, placed(calls, seed))
    with fake_esms(latency=LATENCY_SECONDS, calls=calls, seed=seed) as esms:
        ended = reconcile(receiver, program, esms.url, runs=runs, rate=rate, concurrency=concurrency)
        lookups = esms.end()
    if lookups.repeated or lookups.overlapping or len(lookups.arrivals) != calls:
        found = f"{len(lookups.arrivals):,} look-ups, {lookups.repeated} repeated, {lookups.overlapping} at once"
        bench.session.note(receiver, f"{runs} runs at once: {calls:,} calls, {found}")
    return Measurement(lookups, ended)


def _bound(rate: int, concurrency: int) -> float:
    return min(rate, concurrency / LATENCY_SECONDS)


def speed(bench: Bench) -> None:
    """How near a run comes to its bound, which it must not exceed; and what that costs the database."""
    pairs = list(itertools.product(RATES, CONCURRENCIES))
    variants = [variant for variant in (OURS, BEFORE) if variant in bench.session.variants]
    for kind in bench.session.databases:
        receivers = {variant: bench.session.ours(kind, variant) for variant in variants}

        def measured(
            variant: str, rate: int, concurrency: int, receivers: Mapping[str, Receiver] = receivers
        ) -> tuple[str, Callable[[], Measurement]]:
            calls, program = math.ceil(_bound(rate, concurrency) * bench.sizes.seconds), program_of(bench, variant)
            return _name(variant, rate, concurrency), lambda: against_the_sandbox(
                bench, receivers[variant], program, calls, 1, rate=rate, concurrency=concurrency
            )

        measures = [measured(variant, *pair) for pair in pairs for variant in variants]
        found = interleave(bench.sizes, f"speed, {DATABASES[kind]}", measures, str)
        for variant, pair in itertools.product(variants, pairs):
            _speed_rows(bench, kind, variant, *pair, found[_name(variant, *pair)])
        for variant, pair in itertools.product(variants, pairs):
            if pair[1] == CONCURRENCIES[0]:
                _cost_rows(bench, kind, variant, _name(variant, *pair), found[_name(variant, *pair)])


def _name(variant: str, rate: int, concurrency: int) -> str:
    return f"{'' if variant == OURS else f'{variant}, '}{rate}/s, {concurrency} at a time"


def _speed_rows(
    bench: Bench, kind: str, variant: str, rate: int, concurrency: int, found: Sequence[Measurement]
) -> None:
    name, bound = _name(variant, rate, concurrency), [_bound(rate, concurrency)]
    at_least, at_most = (0.95, 1) if variant == OURS else (None, None)
    arrived, own = [measurement.rate for measurement in found], [measurement.own_rate for measurement in found]
    bench.row(kind, f"{name}: arrivals / bound", arrived, bound, show=per_second, limit=at_least)
    bench.row(kind, f"{name}: by its own seconds / bound", own, bound, show=per_second, limit=at_least)
    most = [max(float(measurement.lookups.most_in_a_second) for measurement in found)]
    bench.row(kind, f"{name}: most in a second / rate", most, [rate], show=whole, limit=at_most, at_least=False)


def _cost_rows(bench: Bench, kind: str, variant: str, name: str, found: Sequence[Measurement]) -> None:
    runs = [run for measurement in found for run in measurement.runs]
    checked = [sum(run.checked for run in runs)]
    statements, transactions = sum(run.statements for run in runs), sum(run.transactions for run in runs)
    limit = 4 if variant == OURS else None
    bench.row(kind, f"{name}: statements / look-ups", [statements], checked, show=whole, at_least=False, limit=limit)
    bench.row(kind, f"{name}: transactions / look-ups", [transactions], checked, show=whole, at_least=False)


def processes(bench: Bench) -> None:
    """Whether several runs at once share the work, where their number and not the rate is the bound."""
    for kind in bench.session.databases:
        receiver = bench.session.ours(kind)
        each = math.ceil(_CONCURRENCY_OF_ONE / LATENCY_SECONDS * bench.sizes.seconds)

        def measured(
            runs: int, receiver: Receiver = receiver, each: int = each
        ) -> tuple[str, Callable[[], Measurement]]:
            return f"{runs} at once", lambda: against_the_sandbox(
                bench, receiver, THIS, runs * each, runs, rate=_RATE_OF_PROCESSES, concurrency=_CONCURRENCY_OF_ONE
            )

        measures = [measured(runs) for runs in PROCESSES]
        found = interleave(bench.sizes, f"processes, {DATABASES[kind]}", measures, str)
        alone, *others = found.values()
        for runs, measurements in zip(PROCESSES[1:], others, strict=True):
            ideal = [runs * measurement.rate for measurement in alone]
            rates = [measurement.rate for measurement in measurements]
            bench.row(kind, f"{runs} processes / {runs} x one", rates, ideal, show=per_second, limit=0.9)
            most = [max(float(measurement.lookups.most_in_a_second) for measurement in measurements)]
            name = f"{runs} processes: most in a second / rate"
            bench.row(kind, name, most, [_RATE_OF_PROCESSES], show=whole, limit=1, at_least=False)


def missing(bench: Bench) -> None:
    """Whether calls that are not missing make a claim slower."""
    sizes = bench.sizes
    for kind in bench.session.databases:
        alone, among = bench.session.ours(kind), bench.session.ours(kind)
        with bench.session.serving(among):
            pass  # It has stored one callback, which is now copied.
        _fill(kind, among, sizes.stored)
        found: dict[str, list[float]] = {}
        for where, receiver in (("alone", alone), ("among", among)):
            # Those among many are not in the statistics: PostgreSQL gathers them anew only after very many changes.
            register(receiver, THIS, [f"missing-{number}" for number in range(sizes.missing)])
            found |= {f"claim {where}": [], f"count {where}": []}
        for number in range(sizes.rounds):
            for where, receiver in (("alone", alone), ("among", among)):
                with _database(receiver) as database:
                    claim_seconds, count_seconds = _claim_and_count(database)
                found[f"claim {where}"] += claim_seconds
                found[f"count {where}"] += count_seconds
            report(f"missing, {DATABASES[kind]}, round {number + 1} of {sizes.rounds}")
        for what in ("claim", "count"):
            name = f"{what}, {sizes.missing:,} missing of {sizes.stored:,} / of as many"
            above, below = found[f"{what} among"], found[f"{what} alone"]
            bench.row(kind, name, above, below, show=milliseconds, limit=3, at_least=False)
        with _database(among) as database:
            bench.session.outcome.plans[f"A claim on {DATABASES[kind]}, {sizes.stored:,} calls stored"] = _plan(
                database
            )
        _burst(bench, kind, among)


def _burst(bench: Bench, kind: str, receiver: Receiver) -> None:
    """Whether a claim is slower when many calls have become missing that are not yet in the statistics."""

    def claims() -> list[float]:
        with _database(receiver) as database:
            return [took for _ in range(bench.sizes.rounds) for took in _claim_and_count(database)[0]]

    before = claims()
    register(receiver, THIS, [f"burst-{number}" for number in range(bench.sizes.burst)])
    name = f"claim, {bench.sizes.burst:,} more missing at once / before"
    bench.row(kind, name, claims(), before, show=milliseconds, limit=3, at_least=False)


def _fill(kind: str, receiver: Receiver, calls: int) -> None:
    """Copy the one stored call until there are ``calls`` of them."""
    started, what = time.monotonic(), f"filling {DATABASES[kind]} with {calls:,} calls"
    fill(receiver.database or "", calls, lambda step: report(f"{what}: {step}"))
    report(f"{what} took {time.monotonic() - started:.0f} s")


@contextmanager
def _database(receiver: Receiver) -> Iterator[Database]:
    database = Database(receiver.database or "")
    yield database
    database.close()


def _claim_and_count(database: Database) -> tuple[list[float], list[float]]:
    """Seconds that each of some claims took, and each of as many counts."""
    reader = Reader(database)
    claim_seconds, count_seconds = [], []
    for _ in range(_CLAIMS):
        now = database.now()
        due = Due(placed_until=now, due_until=now)
        started = time.perf_counter()
        claimed = claims.claim(database, due, _CLAIMED_AT_ONCE, now=now, until=now + _LEASE)
        claim_seconds.append(time.perf_counter() - started)
        assert len(claimed) == _CLAIMED_AT_ONCE
        claims.release(database, dict.fromkeys((call.reference_id for call in claimed), now + _LEASE))
        started = time.perf_counter()
        reader.due(due, 0)
        count_seconds.append(time.perf_counter() - started)
    return claim_seconds, count_seconds


def _plan(database: Database) -> str:
    """How the database executes the statements of a claim, as it explains it."""
    now = database.now()
    executed: list[tuple[str, Any]] = []

    def keep(*arguments: Any) -> None:
        executed.append(arguments[2:4])

    event.listen(Engine, "before_cursor_execute", keep)
    due = Due(placed_until=now, due_until=now)
    claimed = claims.claim(database, due, _CLAIMED_AT_ONCE, now=now, until=now + _LEASE)
    event.remove(Engine, "before_cursor_execute", keep)
    claims.release(database, dict.fromkeys((call.reference_id for call in claimed), now + _LEASE))
    engine = create_engine(database.url)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF) "
    lines: list[str] = []
    with engine.connect() as connection:
        for statement, parameters in executed:
            if statement.startswith(("SELECT", "UPDATE", "WITH")):
                rows = connection.exec_driver_sql(explain + statement, parameters)
                lines += [*(str(row[-1]) for row in rows), ""]
        connection.rollback()
    engine.dispose()
    return "\n".join(lines).strip()


def memory(bench: Bench) -> None:
    """Whether a run needs more memory, or slows down, when very many calls are missing."""
    sizes = bench.sizes
    for kind in bench.session.databases:
        measurements = []
        for stored, asked in ((sizes.few, sizes.few), (sizes.due, sizes.asked)):
            receiver = bench.session.ours(kind)
            register(receiver, THIS, ["template"])
            _fill(kind, receiver, stored)
            with fake_esms() as esms:
                [run] = reconcile(receiver, THIS, esms.url, "--limit", str(asked), rate=1000, concurrency=16)
                measurements.append(measurement := Measurement(esms.end(), [run]))
            own = f"{1e6 * run.processor / asked:,.0f} µs of its processor time each"
            report(f"memory, {DATABASES[kind]}: {asked:,} look-ups at {measurement}, {own}, {mebibytes(run.peak)}")
        few, many = measurements
        [peak] = [run.peak for run in many.runs]
        what = f"peak memory, {sizes.asked:,} asked of {sizes.due:,} due"
        below: list[float] = [run.peak for run in few.runs]
        name = f"{what} / {sizes.few:,} of as many"
        bench.row(kind, name, [peak], below, show=mebibytes, limit=1.1, at_least=False)
        bench.row(kind, f"{what} / 150 MiB", [peak], [_MOST_MEMORY], show=mebibytes, limit=1, at_least=False)
        first, last = many.lookups.part(0, 0.1), many.lookups.part(0.9, 1)
        name = f"{sizes.asked:,} look-ups, last tenth / first"
        bench.row(kind, name, [last.rate], [first.rate], show=per_second, limit=0.9)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", type=Names(PARTS), default=PARTS, help=f"Parts to run, with commas: {', '.join(PARTS)}.")
@databases_option
@before_option
@click.option("--rounds", default=3, type=click.IntRange(1), show_default=True, help="Measurements of each.")
@click.option("--seconds", default=30, type=click.IntRange(1), show_default=True, help="Length of a measurement.")
@click.option("--stored", default=10_000_000, type=click.IntRange(1), show_default=True, help="Calls not missing.")
@click.option("--missing", default=1_000, type=click.IntRange(_CLAIMED_AT_ONCE), show_default=True, help="Among them.")
@click.option(
    "--burst", default=100_000, type=click.IntRange(1), show_default=True, help="Calls that become missing at once."
)
@click.option("--due", default=1_000_000, type=click.IntRange(1), show_default=True, help="Missing calls, for memory.")
@click.option("--asked", default=100_000, type=click.IntRange(100), show_default=True, help="Of these, asked about.")
@click.option("--full", is_flag=True, help="Ask about all of them: most of an hour for each database.")
@click.option(
    "--few", default=10_000, type=click.IntRange(1), show_default=True, help="Missing calls, to compare with."
)
@patience_option
@quick_option
@markdown_option
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    only: tuple[str, ...],
    databases: tuple[str, ...],
    before: Path | None,
    full: bool,
    quick: bool,
    markdown: Path | None,
    **given: int,
) -> None:
    """Measure reconcile runs on this machine, each against its bounds, and print ratios.

    BENCH_DATABASE_URL names a PostgreSQL on which databases may be created (by default one that comes as a wheel);
    files go to TMPDIR. Progress is on standard error. --before is for the part speed. Exit code 1: a limit was missed,
    or a call was asked about twice.
    """
    if quick:
        given |= unless_given(context, QUICK)
    if full:
        given["asked"] = given["due"]
    started = time.monotonic()
    try:
        outcome = _run(Sizes(**given), only, databases, before)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    minutes = math.ceil((time.monotonic() - started) / 60)
    rounds = (
        f"{given['rounds']} interleaved rounds of {given['seconds']} s, look-ups of {LATENCY_SECONDS * 1000:.0f} ms"
    )
    outcome.notes.append(f"{rounds}; {minutes} minutes in all.")
    outcome.print()
    if markdown:
        markdown.write_text(outcome.markdown())
    sys.exit(not outcome.good and not quick)


def _run(sizes: Sizes, only: Sequence[str], databases: Sequence[str], before: Path | None) -> Outcome:
    with session(databases, before) as run:
        bench = Bench(run, sizes)
        parts = {part.__name__: part for part in (speed, processes, missing, memory)}
        for name in only:
            parts[name](bench)
        if {"speed", "processes"} & set(only) and not run.outcome.faults:
            run.outcome.notes.append("No call was asked about twice.")
        return run.conclude()


if __name__ == "__main__":
    main()
