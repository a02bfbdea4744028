"""Reads again what a stored report says beside its columns: whether it is final, its kind, and the id as spelled."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from webapp.calls.report import StatusReport
from webapp.esms.parameters import (
    Parameters,
    Unreadable,
    build_report,
    form_of,
    is_blank,
    other_channel,
    read_identity,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def stored_report(row: Mapping[Any, Any]) -> StatusReport:
    """The report that a row of ``status_reports`` holds; its payload says what has no column."""
    parameters = Parameters(_pairs(row["payload"], unread=row["unread"]))
    return StatusReport(
        **row,
        **form_of(parameters, row["source"], row),
    )


def read_again(report: StatusReport) -> StatusReport:
    """What its payload says to the parser of this version; id, source and times stay."""
    parameters = Parameters(_pairs(report.payload, unread=report.unread, again=True))
    try:
        _, unread = read_identity(parameters)
    except Unreadable:
        unread = []
    origin = {name: getattr(report, name) for name in ("id", "source", "received_at", "lookup_code", "remote_addr")}
    return replace(build_report(parameters, report.reference_id, unread, **origin), payload=report.payload)


def other_channel_of(report: StatusReport) -> str | None:
    """The TypeId of a message of another channel (SMS, Viber, Zalo), which is no call; None for a call."""
    if report.kind != "otp":
        return None
    return other_channel(Parameters(_pairs(report.payload, unread=report.unread)))


def _pairs(payload: str, *, unread: str | None = None, again: bool = False) -> Iterator[tuple[str, Any]]:
    """The parameters of a payload; a name that was repeated has the list of its values there.

    A list of one value was none: it came as JSON, and is no value of a parameter. Nor is one whose name is ``unread``;
    with ``again`` it is one that was repeated, and may be read now, unless it holds different values.
    """
    said = json.loads(payload)
    names = (unread or "").lower().split(",")
    for name, value in said.items() if isinstance(said, dict) else ():
        repeated = isinstance(value, list) and len(value) > 1
        if repeated and name.strip().lower() in names:
            repeated = again and _is_one_value(value)
        for one in value if repeated else (value,):
            yield name, one


def _is_one_value(values: list[Any]) -> bool:
    """Whether one value was said, and perhaps repeated or left blank another time."""
    said = [value for value in values if not is_blank(value)]
    return bool(said) and said.count(said[0]) == len(said)
