"""The table of a benchmark: ratios with their limits, and the figures that they were made of."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

HEADER = ("ratio", "database", "measured", "limit", "verdict", "medians (lowest to highest)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One ratio, above / below, and its limit. Without a limit it is for information."""

    name: str
    database: str
    above: Sequence[float]
    below: Sequence[float]
    show: Callable[[float], str]
    limit: float | None = None
    at_least: bool = True

    @property
    def ratio(self) -> float:
        """The ratio of the medians."""
        return statistics.median(self.above) / statistics.median(self.below)

    @property
    def verdict(self) -> str:
        """Whether the limit is met."""
        if self.limit is None:
            return "-"
        met = self.ratio >= self.limit if self.at_least else self.ratio <= self.limit
        return "met" if met else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """The row as text, under the header."""
        sign = "≥" if self.at_least else "≤"
        limit = f"{sign} {self.limit:g}" if self.limit is not None else "-"
        medians = f"{self._spread(self.above)} / {self._spread(self.below)}"
        return self.name, self.database, f"{self.ratio:.2f}", limit, self.verdict, medians

    def _spread(self, values: Sequence[float]) -> str:
        median = self.show(statistics.median(values))
        return f"{median} ({self.show(min(values))} to {self.show(max(values))})" if len(values) > 1 else median


@dataclass(slots=True)
class Outcome:
    """The results of a benchmark: rows, and lines about what no ratio shows."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What must not happen: answers other than 200, lost callbacks, calls asked about twice."""
    plans: dict[str, str] = field(default_factory=dict)
    """How the database executes what was measured, as it explains it."""

    @property
    def good(self) -> bool:
        """Whether every limit is met and there are no faults."""
        return not self.faults and all(row.verdict != "MISSED" for row in self.rows)

    def print(self) -> None:
        """Show it on standard output."""
        table = Table(*HEADER)
        for row in self.rows:
            table.add_row(*row.cells())
        # In a file the table is as wide as it needs to be.
        console = Console() if Console().is_terminal else Console(width=200)
        console.print(table)
        for line in (*self.notes, *(f"FAULT: {fault}" for fault in self.faults)):
            console.print(line, markup=False, highlight=False)
        for name, plan in self.plans.items():
            console.print(f"\n{name}:\n{plan}", markup=False, highlight=False, soft_wrap=True)

    def markdown(self) -> str:
        """The same for a document."""
        lines = [HEADER, tuple("---" for _ in HEADER), *(row.cells() for row in self.rows)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {line}" for line in (*self.notes, *(f"**{fault}**" for fault in self.faults)))
        plans = "".join(f"\n{name}:\n\n```\n{plan}\n```\n" for name, plan in self.plans.items())
        return f"{table}\n\n{notes}\n{plans}"


def rate(value: float) -> str:
    """Callbacks a second."""
    return f"{value:,.0f}/s"


def per_second(value: float) -> str:
    """Look-ups a second."""
    return f"{value:,.1f}/s"


def whole(value: float) -> str:
    """A count."""
    return f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """A time in seconds, in milliseconds."""
    return f"{value * 1000:,.2f} ms"


def microseconds(value: float) -> str:
    """A time in seconds, in microseconds."""
    return f"{value * 1e6:,.0f} µs"


def mebibytes(value: float) -> str:
    """A size in bytes, in MiB."""
    return f"{value / 1024**2:,.1f} MiB"


def machine() -> str:
    """The machine on which this runs."""
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {system}, Python {platform.python_version()}"
