"""The story of one call: what is known of it and who said so, and what each report said and did."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from flask import render_template
from flask_babel import gettext
from werkzeug.exceptions import NotFound

from webapp.calls.story import facts, story
from webapp.esms.parameters import normalise_identity
from webapp.storage import figures
from webapp.storage.reader import Reader
from webapp.web.pages import call_words as words
from webapp.web.pages.formats import duration, moment, vnd
from webapp.web.pages.language import show_times_in
from webapp.web.pages.words import outcome_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flask import Blueprint
    from flask.typing import ResponseReturnValue

    from webapp.calls.story import Fact, SaidValue, Step
    from webapp.storage.database import Database

_FIRST_SHOWN, _LAST_SHOWN = 60, 40
"""Steps of a long story that are shown, of its beginning and of its end."""
_IN_HEADING = {"outcome", "conflict", "price_conflict"}
_TONES = {"settled": "good", "confirmed": "good", "corrected": "good", "conflict": "bad"}


class _Shown(NamedTuple):
    """One value for people. ``before``: what was said before it, if that was something else."""

    name: str
    label: str
    text: str
    source: str = ""
    before: str = ""


def add_to(pages: Blueprint, database: Database) -> None:
    """Add the route."""
    reader = Reader(database)

    @pages.get("/calls/<identity:reference_id>", endpoint="call")
    def call(reference_id: str) -> ResponseReturnValue:
        try:
            found = reader.call(normalise_identity(reference_id))
        except ValueError:
            found = None
        if found is None:
            text = gettext("No call has the id %(value)s: no report of it came, and it was never registered.")
            raise NotFound(text % {"value": repr(reference_id[:120])})
        with database.snapshot() as connection:
            as_of = figures.as_of(connection)
        show_times_in(ZoneInfo(as_of.time_zone))
        return render_template("call.html", call=found, as_of=as_of, **_prepared(found))


def _prepared(call: Mapping[str, Any]) -> dict[str, Any]:
    placed_at = datetime.fromisoformat(call["placed_at"])
    steps = list(story(call["reports"]))
    skipped = max(0, len(steps) - _FIRST_SHOWN - _LAST_SHOWN)
    shown = chain(steps[:_FIRST_SHOWN], islice(steps, _FIRST_SHOWN + skipped, None)) if skipped else steps
    return {
        "facts": [_fact(fact, placed_at) for fact in facts(call) if fact.name not in _IN_HEADING],
        "steps": [_shown_step(step, placed_at) for step in shown],
        "skipped": skipped,
        "skipped_behind": _FIRST_SHOWN,
        "placed_at": placed_at,
        "outcome_word": outcome_words()[call["outcome"]],
    }


def _fact(fact: Fact, placed_at: datetime) -> _Shown:
    text = value_text(fact.name, fact.value)
    if fact.name in {"callback_at", "settled_at", "confirmed_at"}:
        delay = _time_after(datetime.fromisoformat(fact.value), placed_at)
        text += f" ({delay})" if delay else ""
    return _Shown(fact.name, words.labels()[fact.name], text, words.sources()[fact.source] if fact.source else "")


def _time_after(when: datetime, placed_at: datetime) -> str:
    seconds = (when - placed_at).total_seconds()
    return str(gettext("after %(x)s", x=duration(seconds))) if seconds >= 0 else ""


def _shown_step(step: Step, placed_at: datetime) -> dict[str, Any]:
    report = step.report
    received = datetime.fromisoformat(report["received_at"])
    delay = _time_after(received, placed_at)
    circumstances = [delay] if delay else []
    if report["remote_addr"]:
        circumstances.append(gettext("from %(address)s", address=report["remote_addr"]))
    if report["lookup_code"]:
        circumstances.append(gettext("code %(code)s", code=report["lookup_code"]))
    return {
        "source": words.reporters()[report["source"]],
        "effect": words.effects()[report["effect"]],
        "tone": _TONES.get(report["effect"], ""),
        "received": received,
        "circumstances": " · ".join(circumstances),
        "said": [_said(one) for one in step.said],
        "unread": report["unread"],
        "payload": json.dumps(report["payload"], ensure_ascii=False, indent=2),
        "again": len(step.reports) - 1,
        "again_at": _times(step.reports[1:]),
    }


def _times(repeated: Sequence[Mapping[str, Any]]) -> list[datetime]:
    """When the same was said again; at most the first of many."""
    every: Iterable[Mapping[str, Any]] = islice(repeated, _FIRST_SHOWN)
    return [datetime.fromisoformat(report["received_at"]) for report in every]


def _said(one: SaidValue) -> _Shown:
    before = "" if one.before is None else value_text(one.name, one.before)
    return _Shown(one.name, words.labels()[one.name], value_text(one.name, one.value), before=before)


def value_text(name: str, value: Any) -> str:
    """A value of a call or report, in words of the language."""
    if name.endswith("_at"):
        return moment(datetime.fromisoformat(value))
    if value is True:
        return str(gettext("yes"))
    if name == "price":
        return vnd(Decimal(value))
    if name == "call_duration":
        return duration(value)
    if name == "settled_by":
        return str(words.reporters()[value])
    meaning = words.meanings(name).get(value)
    return f"{value} ({meaning})" if meaning else f"{value}"
