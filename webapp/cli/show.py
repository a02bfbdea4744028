"""The command show: one call and its story, for people."""

from __future__ import annotations

import sys
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from webapp.calls.story import EFFECTS_IN_WORDS, facts, story
from webapp.cli.context import open_reading_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.options import reference_id
from webapp.cli.output import printable_line, say, say_all
from webapp.cli.tables import print_table
from webapp.cli.time_words import duration, local_time
from webapp.esms.finality import MEANINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

    from webapp.calls.story import SaidValue, Step

_VALUE_WORDS = {
    "call_status": "{}",
    "sent_result": "{}",
    "send_status": "SendStatus {}",
    "call_duration": "{} s",
    "ivr": "key {}",
    "price": "{}",
    "cid": "from {}",
    "phone": "to {}",
    "request_id": "request id {}",
}
"""What a report may say, in words."""
_SOURCES_IN_WORDS = {"registered": "as registered", "callback": "by callback", "lookup": "by lookup"}


@click.command()
@click.argument("reference_id", metavar="ID", callback=reference_id)
def show(reference_id: str) -> None:
    """Show one call and its story: what each report said and did.

    ID is the ReferenceId or SMSID, in upper or lower case. Values that are not known are left out. The story has a line
    for each report, oldest first, and one for several alike that said nothing new. BUSY → ANSWERED: it replaced BUSY.
    Times are in TIME_ZONE. Exit code 1 if the call is not stored.

    \b
    Example:
      esms-calls show 066107ee-6ec4-4283-b595-aa74977c65c5
    """  # noqa: D301 - click wants the control character
    with open_reading_context() as context:
        zone = context.settings.time_zone
        call = context.reader.call(reference_id)
    if call is None:
        say(f"unknown: {printable_line(reference_id)}. No report of it came, and it was never registered.", err=True)
        sys.exit(PROBLEM)
    print_table(printable_line(reference_id), _facts(call, zone))
    placed_at = datetime.fromisoformat(call["placed_at"])
    say_all(line for step in story(call["reports"]) for line in _step_lines(step, placed_at, zone))
    if not call["reports"]:
        say("No report of this call has come.")
    sys.exit(DONE)


def _facts(call: Mapping[str, Any], zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    for fact in facts(call):
        source = f" ({_SOURCES_IN_WORDS[fact.source]})" if fact.source else ""
        yield fact.name, _value_in_words(fact.name, fact.value, zone) + source


def _value_in_words(name: str, value: Any, zone: ZoneInfo) -> str:
    if name.endswith("_at"):
        return local_time(datetime.fromisoformat(value), zone)
    if value is True:
        return "yes"
    if name == "price":
        return _price_in_words(value)
    meaning = MEANINGS.get(name, {}).get(value)
    return f"{value} ({meaning})" if meaning else f"{value}{' s' if name == 'call_duration' else ''}"


def _step_lines(step: Step, placed_at: datetime, zone: ZoneInfo) -> Iterator[str]:
    """When a report came, what it did, and what it said: a line, and another one if something could not be read."""
    report, received = step.report, datetime.fromisoformat(step.report["received_at"])
    circumstances = [f"after {duration(received - placed_at)}"] if received >= placed_at else []
    if report["remote_addr"]:
        circumstances.append(f"from {report['remote_addr']}")
    if report["lookup_code"]:
        circumstances.append(f"code {report['lookup_code']}")
    if len(step.reports) > 1:
        circumstances.append(f"{len(step.reports)} times")
    did = f"{report['source']} {EFFECTS_IN_WORDS[report['effect']]}"
    more = f" ({printable_line(', '.join(circumstances))})" if circumstances else ""
    said = printable_line(", ".join(map(_said_in_words, step.said))) or "nothing"
    yield f"{local_time(received, zone)}  {did}{more}; it said: {said}"
    if report["unread"]:
        yield f"    could not be read: {printable_line(report['unread'])}"


def _said_in_words(said: SaidValue) -> str:
    """What was said; ``BUSY → ANSWERED`` where it replaced another value."""
    change = "" if said.before is None else f"{_value(said.name, said.before)} → "
    return _VALUE_WORDS[said.name].format(f"{change}{_value(said.name, said.value)}")


def _value(name: str, value: Any) -> Any:
    return _price_in_words(value) if name == "price" else MEANINGS.get(name, {}).get(value, value)


def _price_in_words(shown: str) -> str:
    """``450.0000`` as ``450 VND``."""
    return f"{Decimal(shown).normalize():f} VND"
