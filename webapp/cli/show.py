"""The command show: one call and its story, for people."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from webapp.cli.context import open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.options import reference_ids
from webapp.cli.output import printable, say
from webapp.cli.tables import print_table
from webapp.cli.time_words import local_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

_FACTS = (
    "outcome",
    "call_status",
    "call_duration",
    "ivr",
    "send_status",
    "sent_result",
    "price",
    "cid",
    "kind",
    "phone",
    "campaign",
    "request_id",
    "esms_id",
    "placed_at",
    "registered_at",
    "callback_at",
    "settled_at",
    "settled_by",
    "confirmed_at",
    "conflict",
    "price_conflict",
    "gave_up_at",
    "dismissed_at",
    "next_lookup_at",
    "lookup_count",
    "last_lookup_code",
)
_SAID = ("call_status", "call_duration", "ivr", "send_status", "sent_result", "price", "cid", "phone", "request_id")
_UNITS = {"call_duration": " s", "price": " VND"}
_EFFECTS = {
    "settled": "settled the call",
    "stale": "changed nothing: the call was settled already",
    "conflict": "disagreed with the settled call",
    "corrected": "corrected the call",
    "confirmed": "confirmed the call",
    "enriched": "added to the settled call",
    "progressed": "was progress",
    "duplicate": "said nothing new",
}


@click.command()
@click.argument("ids", nargs=1, metavar="ID")
def show(*, ids: str) -> None:
    """Show one call and its story: what each report said and did, in local time (TIME_ZONE).

    Exit code 1 if the call is not stored.

    \b
    Example:
      esms-calls show 066107ee-6ec4-4283-b595-aa74977c65c5
    """  # noqa: D301 - click wants the control character
    (reference_id,) = reference_ids(click.get_current_context(), click.Argument(["ids"]), (ids,))
    with open_context(writes=False) as context:
        zone = context.settings.time_zone
        call = context.reader.call(reference_id)
    if call is None:
        say(f"unknown: {printable(reference_id)}: no report of it came, and it was never registered.", err=True)
        sys.exit(PROBLEM)
    print_table(printable(reference_id), _facts(call, zone))
    for line in _story(call["reports"], zone):
        say(line)
    sys.exit(DONE)


def _facts(call: Mapping[str, Any], zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    for name in _FACTS:
        if call[name] not in {None, False}:
            yield name, _shown(name, call[name], zone)


def _story(reports: list[dict[str, Any]], zone: ZoneInfo) -> Iterator[str]:
    """A line a report; repeated ones are folded into one."""
    if not reports:
        yield "No report of this call has come."
    repeated = 0
    for place, report in enumerate(reports):
        following = reports[place + 1]["effect"] if place + 1 < len(reports) else None
        if report["effect"] == following == "duplicate":
            repeated += 1
            continue
        said = ", ".join(f"{name} {_shown(name, report[name], zone)}" for name in _SAID if report[name] is not None)
        code = f" (code {printable(report['lookup_code'])})" if report["lookup_code"] else ""
        times = f" ({repeated + 1} times)" if repeated else ""
        received = local_time(datetime.fromisoformat(report["received_at"]), zone)
        yield (
            f"{received}  {report['source']}{code} {_EFFECTS[report['effect']]}{times}: {said or 'nothing was said'}"
        )
        if report["unread"]:
            yield f"    could not be read: {printable(report['unread'])}"
        repeated = 0


def _shown(name: str, value: Any, zone: ZoneInfo) -> str:
    if name.endswith("_at"):
        return local_time(datetime.fromisoformat(value), zone)
    if value is True:
        return "yes"
    return f"{printable(str(value))}{_UNITS.get(name, '')}"
