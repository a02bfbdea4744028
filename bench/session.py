"""One run of a benchmark of receivers: its databases, its servers, and the count of answers and stored reports."""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, make_url, text

from bench import load, receivers
from bench.peers.tables import Base
from bench.programs import THIS, Program
from bench.setting import DATABASES, conditions, fresh_database, postgresql
from bench.table import Outcome

if TYPE_CHECKING:
    from bench.load import Load
    from bench.receivers import Receiver, Server

OURS, BEFORE = "ours", "before"
WITHOUT_FAST_PATH, OWN_WORKER = "without the fast path", "gunicorn's own gevent worker"
_VARIANTS = {
    OURS: {},
    BEFORE: {},
    WITHOUT_FAST_PATH: receivers.WITHOUT_FAST_PATH,
    OWN_WORKER: receivers.GUNICORNS_OWN_WORKER,
}


@dataclass(slots=True)
class Session:
    """The run's folder, its databases, and its results."""

    folder: Path
    databases: Sequence[str]
    stack: ExitStack
    postgresql: str | None
    before: Program | None
    outcome: Outcome = field(default_factory=Outcome)
    _answered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _accepted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_folder(self, name: str) -> Path:
        """A folder that no other call got."""
        folder = self.folder / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        return folder

    @property
    def variants(self) -> list[str]:
        """The forms of the program that are measured."""
        return [name for name in _VARIANTS if name != BEFORE or self.before]

    def ours(self, database: str, variant: str = OURS, program: Program | None = None) -> Receiver:
        """The program on a new database; ``program``: a checkout other than this one."""
        if variant == BEFORE:
            program = self.before
        url = None if database == "sqlite" else self._new_postgresql()
        environment = _VARIANTS.get(variant)
        folder = self.new_folder("ours")
        return receivers.ours(folder, url, name=variant, program=program or THIS, environment=environment)

    def naive(self, database: str) -> Receiver:
        """The naive peer on a new database."""
        return receivers.naive(self.peers_database(database))

    def peers_database(self, database: str) -> str:
        """URL of a new database with the tables of the peers."""
        url = f"sqlite:///{self.new_folder('peers') / 'calls.db'}" if database == "sqlite" else self._new_postgresql()
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        engine.dispose()
        return url

    def _new_postgresql(self) -> str:
        assert self.postgresql
        return self.stack.enter_context(fresh_database(self.postgresql))

    @contextmanager
    def serving(self, receiver: Receiver) -> Iterator[Server]:
        """A receiver that answers callbacks, until the end of the block."""
        with receivers.serving(receiver, self.log_of(receiver)) as server:
            yield server

    def log_of(self, receiver: Receiver) -> Path:
        """The file with a receiver's output."""
        return self.folder / f"{receiver.name}.log"

    def highest_rate(self, receiver: Receiver, server: Server, seconds: int, connections: int) -> Load:
        """As many callbacks as the receiver can answer, counted."""
        return self.count(receiver, load.highest_rate(server.url, seconds=seconds, connections=connections))

    def count(self, receiver: Receiver, result: Load) -> Load:
        """Count the answers of a load, and those that were not 200."""
        label = label_of(receiver)
        self._answered[label] += result.answers
        if failed := result.refused + result.broken:
            self._failed[label] += failed
            self.note(receiver, f"{failed:,} of {result.answers + result.broken:,} callbacks were not answered 200")
        self._accepted[receiver.database or label] += result.accepted
        return result

    def note(self, receiver: Receiver, what: str) -> None:
        """Keep what went wrong with a receiver; it is a fault where the program itself is concerned."""
        line = f"{label_of(receiver)}: {what}"
        (self.outcome.faults if receiver.must_not_fail else self.outcome.notes).append(line)

    def compare_with_database(self, receiver: Receiver) -> None:
        """Every report answered 200 must be stored. More may be: a load ends without waiting for the last answers."""
        if receiver.database is None:
            return
        engine = create_engine(receiver.database)
        with engine.connect() as connection:
            stored = connection.scalar(text("SELECT count(*) FROM status_reports")) or 0
        engine.dispose()
        if (absent := self._accepted[receiver.database] - stored) > 0:
            self.note(receiver, f"{absent:,} callbacks answered 200 are not in the database")

    def conclude(self) -> Outcome:
        """The results."""
        if self._answered and not self._failed:
            self.outcome.notes.append(f"All {sum(self._answered.values()):,} callbacks were answered 200.")
        return self.outcome


def label_of(receiver: Receiver) -> str:
    """A receiver with its database."""
    if receiver.database is None:
        return receiver.name
    return f"{receiver.name} on {DATABASES[make_url(receiver.database).get_backend_name()]}"


@contextmanager
def session(databases: Sequence[str], before: Path | None = None) -> Iterator[Session]:
    """A run on these databases, which exist until the end of the block; raises RuntimeError if nothing is durable."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="esms-calls-bench-")))
        server = stack.enter_context(postgresql()) if "postgresql" in databases else None
        run = Session(folder, databases, stack, server, Program(before) if before else None)
        run.outcome.notes += conditions(server, folder)
        yield run
