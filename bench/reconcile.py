"""``make bench-reconcile``: whether reconcile runs are as fast as they may be, and cost no more than what is missing.

Every figure stands against a bound of the same run: the rate, what the look-ups' latency allows, or the same with less.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from servers import fresh_database
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine

from bench.filling import fill
from bench.hot_call import Caller
from bench.one_run import Took, together
from bench.receive import DATABASES, Names, in_turns, postgresql, setting, tell, unless_given
from bench.stand_in import Asked, placed, standing_in
from bench.table import Outcome, Row, mebibytes, milliseconds, per_second, whole
from webapp.calls.rule import Registration
from webapp.storage.claims import Due
from webapp.storage.database import Database
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("speed", "processes", "missing", "memory")
LATENCY = 0.2
RATES, CONCURRENCIES = (10, 50), (8, 16)
TOGETHER = (1, 2, 4)
_RATE_OF_MANY, _CONCURRENCY_OF_ONE = 100, 4
"""A rate that so few look-ups at a time cannot reach, so that what bounds them are the processes."""
_CLAIMED_AT_ONCE = 16
_CLAIMS = 20
_REGISTERED_AT_ONCE = 1_000
_LEASE = timedelta(minutes=1)
_MOST_MEMORY = 150 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done; the defaults are those of a full run."""

    rounds: int
    seconds: int
    stored: int
    missing: int
    burst: int
    due: int
    asked: int
    few: int


QUICK = {"rounds": 1, "seconds": 2, "stored": 200_000, "burst": 5_000, "due": 5_000, "asked": 2_000, "few": 500}


@dataclass(slots=True)
class Bench:
    """One run: its folder, its databases, and what it has found so far."""

    sizes: Sizes
    folder: Path
    databases: Sequence[str]
    stack: ExitStack
    server: str | None
    outcome: Outcome = field(default_factory=Outcome)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def number(self) -> int:
        """Another one each time."""
        return next(self._numbers)

    def new(self, kind: str) -> Database:
        """A new database without calls."""
        if kind == "sqlite":
            url = f"sqlite:///{self.folder / f'calls-{self.number()}.db'}"
        else:
            assert self.server
            url = self.stack.enter_context(fresh_database(self.server))
        database = Database(url)
        self.stack.callback(database.close)
        database.migrate()
        return database

    def filled(self, kind: str, database: Database, calls: int) -> None:
        """Copy the one call that is stored there until it has so many."""
        started = time.monotonic()
        what = f"filling {DATABASES[kind]} with {calls:,} calls"
        database.close()
        fill(url_of(database), calls, lambda words: tell(f"{what}: {words}"))
        tell(f"{what} took {time.monotonic() - started:.0f} s")

    def row(self, kind: str, name: str, above: Sequence[float], below: Sequence[float], **more: Any) -> None:
        """Note a ratio."""
        self.outcome.rows.append(Row(name=name, database=DATABASES[kind], above=above, below=below, **more))


@dataclass(frozen=True, slots=True)
class Turn:
    """Runs at one time, and what eSMS saw of them."""

    asked: Asked
    runs: list[Took]

    @property
    def rate(self) -> float:
        """Look-ups a second, from the first that arrived to the last."""
        return self.asked.rate

    @property
    def own_rate(self) -> float:
        """Look-ups a second by the one run's own seconds, from its beginning to its end."""
        [run] = self.runs
        return run.checked / float(run.run["seconds"])

    def __str__(self) -> str:
        """For progress."""
        return per_second(self.rate)


def url_of(database: Database) -> str:
    """Its URL with everything in it."""
    return database.url.render_as_string(hide_password=False)


def register(database: Database, reference_ids: Sequence[str]) -> None:
    """Register calls that were placed just now, so that they are missing."""
    Writer(database).register(
        [Registration(reference_id=reference_id.lower()) for reference_id in reference_ids], database.now()
    )


def ask(database: Database, api_url: str, *options: str, runs: int = 1, rate: int, concurrency: int) -> list[Took]:
    """Let so many runs at one time ask about all that is missing."""
    environment = {
        "DATABASE_URL": url_of(database),
        "ESMS_API_URL": api_url,
        "ESMS_API_KEY": "any",
        "ESMS_SECRET_KEY": "any",
        "RECONCILE_RATE": str(rate),
        "RECONCILE_CONCURRENCY": str(concurrency),
    }
    return together(["--older-than", "0s", *options], [environment] * runs)


def at_a_pace(bench: Bench, database: Database, calls: int, runs: int, *, rate: int, concurrency: int) -> Turn:
    """One turn against the sandbox, with calls of its own; faults are noted."""
    seed = bench.number()
    register(database, placed(calls, seed))
    with standing_in(latency=LATENCY, calls=calls, seed=seed) as esms:
        took = ask(database, esms.url, runs=runs, rate=rate, concurrency=concurrency)
        asked = esms.end()
    if asked.repeated or asked.overlapping or len(asked.arrivals) != calls:
        words = (
            f"{calls:,} calls, {len(asked.arrivals):,} look-ups: {asked.repeated} repeated, {asked.overlapping} at once"
        )
        bench.outcome.faults.append(f"{database.url.get_backend_name()}, {runs} runs at once: {words}")
    return Turn(asked, took)


def speed(bench: Bench) -> None:
    """How near a run comes to its bound, which it may not pass; and what that costs the database."""
    sizes = bench.sizes
    for kind in bench.databases:
        database = bench.new(kind)
        pairs = list(itertools.product(RATES, CONCURRENCIES))

        def measured(rate: int, concurrency: int, database: Database = database) -> tuple[str, Callable[[], Turn]]:
            calls = math.ceil(_bound(rate, concurrency) * sizes.seconds)
            return f"{rate}/s, {concurrency} at a time", lambda: at_a_pace(
                bench, database, calls, 1, rate=rate, concurrency=concurrency
            )

        measures = [measured(*pair) for pair in pairs]
        found = in_turns(sizes.rounds, f"speed, {DATABASES[kind]}", measures, str)
        for (rate, concurrency), (name, turns) in zip(pairs, found.items(), strict=True):
            bound = [_bound(rate, concurrency)]
            bench.row(kind, f"{name}: arrivals / bound", [t.rate for t in turns], bound, show=per_second, limit=0.95)
            own = [turn.own_rate for turn in turns]
            bench.row(kind, f"{name}: by its own seconds / bound", own, bound, show=per_second, limit=0.95)
            most = [max(float(turn.asked.most_in_a_second) for turn in turns)]
            bench.row(kind, f"{name}: most in a second / rate", most, [rate], show=whole, limit=1, at_least=False)
        for (_, concurrency), (name, turns) in zip(pairs, found.items(), strict=True):
            if concurrency != CONCURRENCIES[0]:
                continue
            runs = [run for turn in turns for run in turn.runs]
            checked = [sum(run.checked for run in runs)]
            statements, transactions = sum(run.statements for run in runs), sum(run.transactions for run in runs)
            asks = {"show": whole, "at_least": False}
            bench.row(kind, f"{name}: statements / look-ups", [statements], checked, limit=4, **asks)
            bench.row(kind, f"{name}: transactions / look-ups", [transactions], checked, **asks)


def _bound(rate: int, concurrency: int) -> float:
    return min(rate, concurrency / LATENCY)


def processes(bench: Bench) -> None:
    """Whether several runs at once share the work, where they and not the rate are what bounds it."""
    sizes = bench.sizes
    for kind in bench.databases:
        database = bench.new(kind)
        each = math.ceil(_CONCURRENCY_OF_ONE / LATENCY * sizes.seconds)

        def measured(runs: int, database: Database = database, each: int = each) -> tuple[str, Callable[[], Turn]]:
            return f"{runs} at once", lambda: at_a_pace(
                bench, database, runs * each, runs, rate=_RATE_OF_MANY, concurrency=_CONCURRENCY_OF_ONE
            )

        measures = [measured(runs) for runs in TOGETHER]
        alone, *others = in_turns(sizes.rounds, f"processes, {DATABASES[kind]}", measures, str).values()
        for runs, turns in zip(TOGETHER[1:], others, strict=True):
            ideal = [runs * turn.rate for turn in alone]
            bench.row(
                kind,
                f"{runs} processes / {runs} x one",
                [turn.rate for turn in turns],
                ideal,
                show=per_second,
                limit=0.9,
            )
            most = [max(float(turn.asked.most_in_a_second) for turn in turns)]
            name = f"{runs} processes: most in a second / rate"
            bench.row(kind, name, most, [_RATE_OF_MANY], show=whole, limit=1, at_least=False)


def missing(bench: Bench) -> None:
    """Whether calls that are not missing cost anything when work is looked for."""
    sizes = bench.sizes
    for kind in bench.databases:
        alone, among = bench.new(kind), bench.new(kind)
        caller = Caller("template", among.now() - timedelta(hours=1))
        Writer(among).record([caller.report()], caller.now)
        bench.filled(kind, among, sizes.stored)
        found: dict[str, list[float]] = {}
        for where, database in (("alone", alone), ("among", among)):
            # Those among many are not in the statistics, as PostgreSQL gathers them anew only after very many changes.
            register(database, [f"missing-{number}" for number in range(sizes.missing)])
            found |= {f"claim {where}": [], f"count {where}": []}
        for number in range(sizes.rounds):
            for where, database in (("alone", alone), ("among", among)):
                claims, counts = _look_for_work(database)
                found[f"claim {where}"] += claims
                found[f"count {where}"] += counts
            tell(f"missing, {DATABASES[kind]}, round {number + 1} of {sizes.rounds}")
        for what in ("claim", "count"):
            name = f"{what}, {sizes.missing:,} missing of {sizes.stored:,} / of as many"
            above, below = found[f"{what} among"], found[f"{what} alone"]
            bench.row(kind, name, above, below, show=milliseconds, limit=3, at_least=False)
        bench.outcome.plans[f"A claim on {DATABASES[kind]}, {sizes.stored:,} calls stored"] = _plan(among)
        _more_at_once(bench, kind, among)


def _more_at_once(bench: Bench, kind: str, database: Database) -> None:
    """Whether a claim costs more when many calls have become missing, of which the statistics do not tell yet."""
    before = list(itertools.chain.from_iterable(_look_for_work(database)[0] for _ in range(bench.sizes.rounds)))
    names = (f"burst-{number}" for number in range(bench.sizes.burst))
    while some := list(itertools.islice(names, _REGISTERED_AT_ONCE)):
        register(database, some)
    after = list(itertools.chain.from_iterable(_look_for_work(database)[0] for _ in range(bench.sizes.rounds)))
    name = f"claim, {bench.sizes.burst:,} more missing at once / before"
    bench.row(kind, name, after, before, show=milliseconds, limit=3, at_least=False)


def _look_for_work(database: Database) -> tuple[list[float], list[float]]:
    """Seconds that each of some claims took, and each of as many counts."""
    writer, reader = Writer(database), Reader(database)
    claims, counts = [], []
    for _ in range(_CLAIMS):
        now = database.now()
        due = Due(placed_by=now, due_by=now)
        started = time.perf_counter()
        claimed = writer.claim(due, _CLAIMED_AT_ONCE, now=now, until=now + _LEASE)
        claims.append(time.perf_counter() - started)
        assert len(claimed) == _CLAIMED_AT_ONCE
        writer.release_claims(dict.fromkeys((call.reference_id for call in claimed), now + _LEASE))
        started = time.perf_counter()
        reader.due(due, 0)
        counts.append(time.perf_counter() - started)
    return claims, counts


def _plan(database: Database) -> str:
    """What the database says of how it does a claim's statements."""
    now = database.now()
    said: list[tuple[str, Any]] = []

    def listen(*arguments: Any) -> None:
        said.append(arguments[2:4])

    with _listening("before_cursor_execute", listen):
        claimed = Writer(database).claim(Due(placed_by=now, due_by=now), _CLAIMED_AT_ONCE, now=now, until=now + _LEASE)
    Writer(database).release_claims(dict.fromkeys((call.reference_id for call in claimed), now + _LEASE))
    engine = create_engine(database.url)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF) "
    lines: list[str] = []
    with engine.connect() as connection:
        for statement, parameters in said:
            if statement.startswith(("SELECT", "UPDATE", "WITH")):
                rows = connection.exec_driver_sql(explain + statement, parameters)
                lines += [*(str(row[-1]) for row in rows), ""]
        connection.rollback()
    engine.dispose()
    return "\n".join(lines).strip()


@contextmanager
def _listening(name: str, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(Engine, name, listener)
    yield
    event.remove(Engine, name, listener)


def memory(bench: Bench) -> None:
    """Whether a run grows, or slows down, when very many calls are missing."""
    sizes = bench.sizes
    for kind in bench.databases:
        turns = []
        for stored, asked in ((sizes.few, sizes.few), (sizes.due, sizes.asked)):
            database = bench.new(kind)
            register(database, ["template"])
            bench.filled(kind, database, stored)
            with standing_in() as esms:
                [took] = ask(database, esms.url, "--limit", str(asked), rate=1000, concurrency=16)
                turns.append(turn := Turn(esms.end(), [took]))
            mine = f"{1e6 * took.processor / asked:,.0f} µs of its processor time each"
            tell(f"memory, {DATABASES[kind]}: {asked:,} look-ups at {turn}, {mine}, {mebibytes(took.peak)}")
        few, many = turns
        [peak] = [run.peak for run in many.runs]
        what = f"peak memory, {sizes.asked:,} asked of {sizes.due:,} due"
        below: list[float] = [run.peak for run in few.runs]
        name = f"{what} / {sizes.few:,} of as many"
        bench.row(kind, name, [peak], below, show=mebibytes, limit=1.1, at_least=False)
        bench.row(kind, f"{what} / 150 MiB", [peak], [_MOST_MEMORY], show=mebibytes, limit=1, at_least=False)
        first, last = many.asked.part(0, 0.1), many.asked.part(0.9, 1)
        name = f"{sizes.asked:,} look-ups, last tenth / first"
        bench.row(kind, name, [last.rate], [first.rate], show=per_second, limit=0.9)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", type=Names(PARTS), default=PARTS, help=f"Parts to run, with commas: {', '.join(PARTS)}.")
@click.option(
    "--databases", type=Names(tuple(DATABASES)), default=tuple(DATABASES), help="postgresql, sqlite, or both."
)
@click.option("--rounds", default=3, type=click.IntRange(1), show_default=True, help="Turns that each takes.")
@click.option("--seconds", default=30, type=click.IntRange(1), show_default=True, help="Length of a turn.")
@click.option("--stored", default=10_000_000, type=click.IntRange(1), show_default=True, help="Calls not missing.")
@click.option("--missing", default=1_000, type=click.IntRange(_CLAIMED_AT_ONCE), show_default=True, help="Among them.")
@click.option("--burst", default=100_000, type=click.IntRange(1), show_default=True, help="So many more at once.")
@click.option("--due", default=1_000_000, type=click.IntRange(1), show_default=True, help="Missing calls, for memory.")
@click.option("--asked", default=100_000, type=click.IntRange(100), show_default=True, help="Of these, asked about.")
@click.option("--full", is_flag=True, help="Ask about all of them: most of an hour for each database.")
@click.option(
    "--few", default=10_000, type=click.IntRange(1), show_default=True, help="Missing calls, to compare with."
)
@click.option("--quick", is_flag=True, help="Small sizes, to see that everything works; its figures mean nothing.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to this file, too.")
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    only: tuple[str, ...],
    databases: tuple[str, ...],
    full: bool,
    quick: bool,
    markdown: Path | None,
    **given: int,
) -> None:
    """Measure reconcile runs on this machine, each against its bounds, and print ratios.

    BENCH_DATABASE_URL names a PostgreSQL on which databases may be made (by default one that comes as a wheel); files
    go to TMPDIR. Progress is told on standard error. Exit code 1: a limit was missed, or a call was asked about twice.
    """
    if quick:
        given |= unless_given(context, QUICK)
    if full:
        given["asked"] = given["due"]
    started = time.monotonic()
    try:
        outcome = _run(Sizes(**given), only, databases)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    minutes = math.ceil((time.monotonic() - started) / 60)
    turns = f"{given['rounds']} rounds of {given['seconds']} s in turns, look-ups of {LATENCY * 1000:.0f} ms"
    outcome.notes.append(f"{turns}; {minutes} minutes in all.")
    outcome.print()
    if markdown:
        markdown.write_text(outcome.markdown())
    sys.exit(not outcome.good and not quick)


def _run(sizes: Sizes, only: Sequence[str], databases: Sequence[str]) -> Outcome:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esms-calls-bench-")))
        server = stack.enter_context(postgresql()) if "postgresql" in databases else None
        bench = Bench(sizes=sizes, folder=folder, databases=databases, stack=stack, server=server)
        bench.outcome.notes += setting(server, folder)
        parts = {part.__name__: part for part in (speed, processes, missing, memory)}
        for name in only:
            parts[name](bench)
        if {"speed", "processes"} & set(only) and not bench.outcome.faults:
            bench.outcome.notes.append("No call was asked about twice.")
        return bench.outcome


if __name__ == "__main__":
    main()
