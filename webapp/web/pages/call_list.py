"""The list of calls: searched and filtered, fifty a page, newest placed first."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from flask import render_template, request
from flask_babel import gettext
from werkzeug.exceptions import BadRequest

from webapp.calls.outcome import OUTCOMES
from webapp.storage import figures
from webapp.storage.call_list import read_list
from webapp.storage.overview import campaign_names
from webapp.storage.search import Search
from webapp.web.api_parameters import PARAMETERS, cursor
from webapp.web.pages.call_filter import FIGURE_OF_FLAG, KEYS, ListFilter, read_filter
from webapp.web.pages.downloads import MOST_IN_A_WORKBOOK
from webapp.web.pages.language import show_times_in
from webapp.web.pages.ranges import ALL, PRESETS, WrongAddress
from webapp.web.pages.words import flag_words, outcome_words

if TYPE_CHECKING:
    from flask import Blueprint
    from flask.typing import ResponseReturnValue
    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database
    from webapp.storage.figures import Sums
    from webapp.storage.reader import Position

_CALLS_OF_A_PAGE = 50


def add_to(pages: Blueprint, database: Database) -> None:
    """Add the route."""

    @pages.get("/calls", endpoint="calls")
    def calls() -> ResponseReturnValue:
        with database.snapshot() as connection:
            as_of = figures.as_of(connection)
            zone = ZoneInfo(as_of.time_zone)
            show_times_in(zone)
            chosen, problem = _filter_of_url(zone)
            after = _cursor(zone)
            search = Search.of(chosen.search, database.phones) if chosen.search else None
            found = read_list(connection, chosen.wanted(zone), after, _CALLS_OF_A_PAGE, search)
            count, purged = _count_listed(connection, chosen)
            if count is not None and count < len(found.calls):
                count = None  # The figures do not have the newest calls yet.
            names = campaign_names(connection)
        text = render_template(
            "calls.html",
            as_of=as_of,
            chosen=chosen,
            problem=problem,
            found=found,
            older=cursor(found.older) if found.older else None,
            is_first=after is None,
            choices={"outcome": OUTCOMES, "key": KEYS},
            outcome_words=outcome_words(),
            flag_words=flag_words(),
            presets=(*PRESETS, ALL),
            campaign_names=names,
            count=count,
            purged=purged,
            most_of_workbook=MOST_IN_A_WORKBOOK,
        )
        return text, 400 if problem else 200


def _filter_of_url(zone: ZoneInfo) -> tuple[ListFilter, str]:
    """The filter of the address, or every call and what is wrong in the address."""
    today = datetime.now(zone).date()
    try:
        return read_filter(request.args, today), ""
    except WrongAddress as problem:
        return read_filter({}, today), str(problem)


def _cursor(zone: ZoneInfo) -> Position | None:
    if not (text := request.args.get("after")):
        return None
    try:
        after: Position = PARAMETERS["cursor"].read(text, zone)
    except ValueError:
        raise BadRequest(gettext("This page of the list is not known: begin with the newest calls.")) from None
    return after


def _count_listed(connection: Connection, chosen: ListFilter) -> tuple[int | None, int]:
    """The number of calls in the list, as of the figures, and of those that a purge took from it.

    None: the figures do not have it.
    """
    is_counted = chosen.flag is None or chosen.flag in FIGURE_OF_FLAG
    # The figures count the keys of answered calls alone.
    has_keys = chosen.key is None or chosen.outcome in {None, "answered"}
    if chosen.search or not (is_counted and has_keys):
        return None, 0
    facet, label = ("key", chosen.key) if chosen.key else ("outcome", chosen.outcome)
    column = FIGURE_OF_FLAG[chosen.flag] if chosen.flag else "calls"

    def number(found: dict[str, Sums]) -> int:
        return sum(getattr(sums, column) for name, sums in found.items() if label in (None, name))

    days = chosen.range.days
    purged = number(figures.purged(connection, days, facet))
    return number(figures.sums_by_label(connection, days, facet)) - purged, purged
