"""The overview: all calls of some days in figures and charts."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from flask import Response, render_template, request, url_for
from flask_babel import gettext

from webapp.storage import figures
from webapp.storage.claims import Due, lease_of
from webapp.storage.exports import csv_lines
from webapp.storage.overview import Campaign, Compared, Hour, Overview, campaign_names, campaigns, read_overview
from webapp.storage.runs import outcome_now
from webapp.storage.time_zone import has_calls
from webapp.web.pages import charts
from webapp.web.pages.call_filter import KEYS
from webapp.web.pages.formats import NONE, day, duration, moment, month, number, short_day
from webapp.web.pages.language import show_times_in
from webapp.web.pages.ranges import PRESETS, Range, WrongAddress, read_range
from webapp.web.pages.words import outcome_words, part_words, run_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Blueprint
    from flask.typing import ResponseReturnValue

    from webapp.storage.database import Database
    from webapp.storage.figures import AsOf
    from webapp.support.settings import Settings

_SHOWN_CAMPAIGNS = 10
_MOST_DAYS = 3660
_CSV_COLUMNS = (
    *("campaign", "calls", "with_outcome", "answered", "answered_share", "mean_talk_seconds", "price_vnd", "unpriced"),
    *("recovered", "conflicts", "unregistered", "missing", "rejected", "delivered"),
)
_OPEN_EDGE = 10**6
"""Seconds: a class with a larger upper edge has none."""


def add_to(pages: Blueprint, database: Database, settings: Settings) -> None:
    """Add the routes."""

    @pages.get("/", endpoint="overview")
    def overview() -> ResponseReturnValue:
        with database.snapshot() as connection:
            as_of = figures.as_of(connection)
            show_times_in(ZoneInfo(as_of.time_zone))
            if not has_calls(connection):
                return render_template("overview_empty.html", as_of=as_of, public_url=settings.public_url)
            chosen, problem = _range_of_url(as_of)
            names = campaign_names(connection)
            now = datetime.now(ZoneInfo(as_of.time_zone))
            due = Due(placed_until=now - settings.reconcile_grace, due_until=now)
            found = read_overview(connection, chosen.days, due, now)
        page = {"chosen": chosen, "problem": problem, "presets": PRESETS, "campaign_names": names}
        shown = _template_values(found, chosen, now, lease_of(settings))
        return render_template("overview.html", found=found, as_of=as_of, **page, **shown), 400 if problem else 200

    @pages.get("/campaigns.csv", endpoint="campaigns_csv")
    def campaigns_csv() -> ResponseReturnValue:
        with database.snapshot() as connection:
            chosen, problem = _range_of_url(figures.as_of(connection))
            if problem:
                return f"{problem}\n", 400, {"Content-Type": "text/plain; charset=utf-8"}
            found = campaigns(connection, chosen.days)
        return Response(
            b"".join(csv_lines(_csv_rows(found), _CSV_COLUMNS, guarded=True)),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="campaigns-{chosen.first}-{chosen.last}.csv"'},
        )


def _range_of_url(as_of: AsOf) -> tuple[Range, str]:
    """The range of the address, or the usual one and what is wrong in the address."""
    today = datetime.now(ZoneInfo(as_of.time_zone)).date()
    try:
        chosen, problem = read_range(request.args, today), ""
    except WrongAddress as wrong:
        chosen, problem = read_range({}, today), str(wrong)
    if chosen.length > _MOST_DAYS:
        return read_range({}, today), gettext("At most ten years are shown at once.")
    return chosen, problem


def _template_values(found: Overview, chosen: Range, now: datetime, lease: timedelta) -> dict[str, Any]:
    """What the template shows besides the figures as they are."""
    columns = charts.columns(found.by_day, chosen.first, chosen.last)
    by_month = charts.are_months(chosen.first, chosen.last)
    talk = charts.talk_classes(found.talk)
    runs = [{**run, "outcome": outcome_now(run, now, lease)} for run in found.runs]
    every = request.args.get("campaigns") == "all"
    shown = found.campaigns if every else found.campaigns[:_SHOWN_CAMPAIGNS]
    return {
        "columns": [_column(column, chosen, by_month=by_month) for column in columns],
        "columns_are": _columns_are(columns, by_month=by_month),
        "axis": charts.axis(max(column.total for column in columns)),
        "parts": charts.in_series(found.outcomes),
        "outcomes": [name for name in outcome_words() if found.outcomes.get(name)],
        "talk": talk,
        "talk_columns": [_talk_column(one) for one in talk],
        "talk_axis": charts.axis(max(one.calls for one in talk)),
        "delay": charts.delay_classes(found.delay),
        "phone_keys": KEYS,
        "keys": sorted(found.keys.items(), key=lambda one: -one[1]),
        **_values_of_hours(found, chosen),
        "weekdays": _weekdays(chosen),
        "heat": _heat(found),
        "against": _against(found.compared, chosen),
        "shown_campaigns": shown,
        "runs": runs,
        "run_problem": _run_problem(runs),
        "silent": found.needs.callbacks.have_stopped(now),
        "now": now,
        "query": chosen.query(),
        "to_calls": lambda **more: _to_calls(chosen, more),
        "outcome_words": outcome_words(),
        "part_words": part_words(),
        "run_words": run_words(),
        "edge": _edge,
        "class_words": _class_words,
    }


def _values_of_hours(found: Overview, chosen: Range) -> dict[str, Any]:
    """Those of the chart of one day, hour by hour."""
    return {
        "hours": _hours_with_outcome(found),
        "hour_columns": [_hour_column(found, hour) for hour in range(24)] if chosen.length == 1 else [],
        "hour_axis": charts.axis(max((one.calls for one in found.by_hour.values()), default=0)),
        "hour_words": {
            "answered": gettext("Answered"),
            "unanswered": gettext("Not answered, and other"),
            "other": gettext("Rejected, delivered or no result yet"),
        },
        "hour_parts": {
            "answered": found.sums.answered,
            "unanswered": found.sums.with_outcome - found.sums.answered,
            "other": found.sums.calls - found.sums.with_outcome,
        },
    }


def _against(compared: Compared | None, chosen: Range) -> str:
    """What the figures are compared with, in words."""
    if compared is None:
        return ""
    before = number(compared.before.calls)
    if chosen.length == 1:
        words = gettext("against %(calls)s on the day before", calls=before)
    else:
        words = gettext("against %(calls)s in the %(n)s days before", calls=before, n=number(chosen.length))
    if compared.until_hour is None:
        return str(words)
    up_to = gettext("each up to %(hour)s", hour=f"{compared.until_hour}:00")
    return f"{words}, {up_to}"


def _columns_are(columns: list[charts.Column], *, by_month: bool) -> str:
    """What the columns are, in words."""
    if by_month:
        return str(gettext("Calls by month"))
    whole = any(column.first != column.last for column in columns)
    return str(gettext("Calls by week") if whole else gettext("Calls by day"))


def _column(column: charts.Column, chosen: Range, *, by_month: bool) -> dict[str, Any]:
    days = day(column.first)
    if column.first != column.last:
        days += f" \N{EN DASH} {day(column.last)}"
    there = Range(column.first, column.last, None, chosen.campaign)
    return {
        "label": month(column.first) if by_month else short_day(column.first),
        "days": days,
        "title": f"{days}: {number(column.total)}",
        "link": _address("pages.overview", there.query()),
        "parts": column.parts,
        "outcomes": column.outcomes,
        "total": column.total,
        "share": column.answered_share,
    }


def _hour_column(found: Overview, hour: int) -> dict[str, Any]:
    one = next((cell for (_, of), cell in found.by_hour.items() if of == hour), Hour())
    parts = {"answered": one.answered, "unanswered": one.with_outcome - one.answered}
    parts["other"] = one.calls - one.with_outcome
    return {"label": f"{hour}", "title": f"{hour}:00: {number(one.calls)}", "parts": parts}


def _talk_column(one: charts.Class) -> dict[str, Any]:
    label = f"{one.above}" if one.edge else f"> {one.above}"
    title = f"{label} \N{EN DASH} {one.edge} s" if one.edge else f"{label} s"
    return {"label": label, "title": f"{title}: {number(one.calls)}", "parts": {"answered": one.calls}}


def _run_problem(runs: list[dict[str, Any]]) -> str:
    """What went wrong in the latest run, in words; empty: nothing."""
    if not runs:
        return ""
    time = moment(runs[0]["started_at"])
    words: dict[str | None, str] = {
        "failures": gettext("The reconcile run of %(time)s had failures", time=time),
        "refused": gettext("eSMS refused the account in the reconcile run of %(time)s", time=time),
        "died": gettext("The reconcile run of %(time)s died", time=time),
    }
    return words.get(runs[0]["outcome"], "")


def _heat(found: Overview) -> dict[tuple[int | None, int | None], Hour]:
    """The calls by weekday and hour; None stands for all of them."""
    heat: defaultdict[tuple[int | None, int | None], Hour] = defaultdict(Hour)
    for (weekday, hour), one in found.by_hour.items():
        for place in ((weekday, hour), (weekday, None), (None, hour), (None, None)):
            heat[place] = heat[place].plus(one)
    return heat


def _weekdays(chosen: Range) -> list[int]:
    """The weekdays of these days, from Monday."""
    return sorted({(chosen.first + timedelta(days=number)).isoweekday() for number in range(min(chosen.length, 7))})


def _hours_with_outcome(found: Overview) -> list[int]:
    """The hours that have calls with an outcome."""
    return sorted({hour for (_, hour), one in found.by_hour.items() if one.with_outcome})


def _to_calls(chosen: Range, more: dict[str, Any]) -> str:
    """The address of the list of calls of the same days and campaign; ``more`` narrows it."""
    return _address("pages.calls", chosen.query() | {name: value for name, value in more.items() if value})


def _address(endpoint: str, arguments: dict[str, Any]) -> str:
    return url_for(endpoint, **arguments)


def _edge(seconds: int | None) -> str:
    """The upper edge of a class that holds a median or percentile."""
    if seconds is None:
        return NONE
    return gettext("very long") if seconds >= _OPEN_EDGE else f"≈ {duration(seconds)}"


def _class_words(one: charts.Class) -> str:
    if one.edge is None:
        return f"> {duration(one.above)}"
    return f"{duration(one.above)} {NONE} {duration(one.edge)}"


def _csv_rows(found: list[Campaign]) -> Iterable[dict[str, Any]]:
    for one in found:
        sums = one.sums
        numbers = {name: getattr(sums, name) for name in _CSV_COLUMNS if hasattr(sums, name)}
        yield {"campaign": one.name, **numbers, **{name: one.outcomes.get(name, 0) for name in ("missing", "rejected")}}
