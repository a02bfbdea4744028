"""Reads PostgreSQL's plans of statements while they are executed: which tables does one join, and by what."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

SPREAD = ("calls", "status_reports")
"""The tables that are spread over machines by ``reference_id``; all others are small, and on one."""
_PLANNED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", re.IGNORECASE)
_SAME_CALL = re.compile(r'("?\w+"?\.)?reference_id\)? = \(?("?\w+"?\.)?reference_id')
_CONDITIONS = ("Hash Cond", "Merge Cond", "Join Filter", "Index Cond", "Recheck Cond", "Filter")


@contextmanager
def explained() -> Iterator[dict[str, dict[str, Any]]]:
    """The plan of every statement on a table that is spread, executed on PostgreSQL within the block."""
    plans: dict[str, dict[str, Any]] = {}

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if connection.dialect.name != "postgresql" or not _PLANNED.match(statement):
            return
        if statement not in plans and any(table in statement for table in SPREAD):
            driver = connection.connection.driver_connection
            words = f"EXPLAIN (VERBOSE, FORMAT JSON) {statement}"
            plans[statement] = driver.execute(words, parameters, prepare=False).fetchone()[0][0]["Plan"]

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


def joins_of_different_calls(plan: dict[str, Any]) -> list[str]:
    """The joins in a plan that bring rows of different calls together, each with its conditions."""
    found = [problem for part in plan.get("Plans", ()) for problem in joins_of_different_calls(part)]
    is_join = "Join" in plan["Node Type"] or plan["Node Type"] == "Nested Loop"
    if not is_join or len([part for part in plan["Plans"] if _reads_spread_tables(part)]) < 2:
        return found
    conditions = list(_conditions(plan))
    if not any(_SAME_CALL.search(condition) for condition in conditions):
        found.append(f"{plan['Node Type']}: {conditions}")
    return found


def _reads_spread_tables(plan: dict[str, Any]) -> bool:
    return plan.get("Relation Name") in SPREAD or any(map(_reads_spread_tables, plan.get("Plans", ())))


def _conditions(plan: dict[str, Any]) -> Iterator[str]:
    yield from (plan[name] for name in _CONDITIONS if name in plan)
    if plan["Node Type"] == "Nested Loop":
        for part in plan["Plans"]:
            yield from _conditions(part)
