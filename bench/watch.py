"""Takes the time of every SQL statement that this process executes, until its rows were read."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Watch:
    """The statements of one block, each with its seconds; those of its transactions' begin and end left out."""

    statements: list[tuple[str, Any, float]] = field(default_factory=list)
    seconds: float = 0.0
    """Of the whole block."""

    @property
    def slowest(self) -> float:
        """Seconds of the slowest statement."""
        return max((seconds for *_, seconds in self.statements), default=0.0)

    @property
    def together(self) -> float:
        """Seconds of all statements."""
        return sum(seconds for *_, seconds in self.statements)


@contextmanager
def watched() -> Iterator[Watch]:
    """Record what the block executes.

    A statement ends with the next one of its connection, or its transaction: SQLite computes rows as they are read.
    """
    watch = Watch()
    running: dict[int, tuple[str, Any, float]] = {}

    def end(connection: Any, *_: object) -> None:
        if found := running.pop(id(connection.connection.dbapi_connection), None):
            statement, parameters, begun = found
            watch.statements.append((statement, parameters, time.perf_counter() - begun))

    def begin(connection: Any, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        end(connection)
        running[id(connection.connection.dbapi_connection)] = statement, parameters, time.perf_counter()

    listeners = (("before_cursor_execute", begin), ("commit", end), ("rollback", end))
    for name, listener in listeners:
        event.listen(Engine, name, listener)
    begun = time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - begun
        for name, listener in listeners:
            event.remove(Engine, name, listener)
