"""The command report: the figures of the page, in the terminal."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from webapp.cli.context import open_reading_context
from webapp.cli.options import Time
from webapp.cli.output import say, say_json
from webapp.cli.tables import print_columns, print_table
from webapp.cli.time_words import local_time
from webapp.storage import figures
from webapp.storage.figures import GROUPS, AsOf, Days, Group, Summary, Sums
from webapp.storage.types import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LONGEST_EXACT_SECONDS = 10**6
"""Seconds: an upper edge beyond it only says that the class has none."""
_WITHOUT_DELIVERED: tuple[Group, ...] = ("hour", "key")


@click.command()
@click.option("--by", type=click.Choice(GROUPS), help="Count each hour, weekday, day, campaign or key.")
@click.option("--since", type=Time(), help="Only calls placed on this day or later: 2026-11-23, today, yesterday.")
@click.option("--until", type=Time(), help="Only calls placed before this day.")
@click.option("--campaign", metavar="NAME", help="Only calls of this campaign.")
@click.option(
    "--wide",
    is_flag=True,
    help="With --by, for a window of 130 characters: also calls confirmed by eSMS, in conflict and never registered, "
    "and what an answered call cost by weekday and day.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(
    *,
    by: Group | None,
    since: datetime | None,
    until: datetime | None,
    campaign: str | None,
    wide: bool,
    as_json: bool,
) -> None:
    """Show how calls went: answered share, talk time, cost, callbacks, by whole days.

    The figures are those of the views in SQL (docs/data.md), which the server keeps up to date; the last line says up
    to when. The answered share is answered calls of those with an outcome: answered, unanswered or other. It is `-`
    where voice OTP calls were delivered and no other call was answered: of these eSMS says only whether they were
    delivered. The cost of an answered call leaves them out. Medians and percentiles are upper edges of classes, marked
    with ≈. By key, only answered calls are counted. "by lookup": calls whose callback was lost and that a look-up
    recovered.
    """
    if wide and not by:
        raise click.UsageError("--wide adds columns to a table: give --by as well.")
    with open_reading_context() as context, context.database.snapshot(limited=False) as connection:
        as_of = figures.as_of(connection)
        zone = ZoneInfo(as_of.time_zone)
        days = Days(_local_day(since, zone, "--since"), _local_day(until, zone, "--until"), campaign)
        overview = None if by else figures.summary(connection, days)
        groups = figures.groups(connection, days, by) if by else []
    if overview:
        (_overview_as_json if as_json else _show_overview)(overview, as_of)
    elif by:
        if as_json:
            _groups_as_json(by, groups, as_of)
        else:
            _show_groups(by, groups, as_of, wide=wide)


def _local_day(moment: datetime | None, zone: ZoneInfo, option: str) -> date | None:
    """The local day that begins at this moment."""
    if moment is None:
        return None
    local = moment.astimezone(zone)
    if (moment - timedelta(microseconds=1)).astimezone(zone).date() == local.date():
        raise click.BadParameter(
            f"{local:%Y-%m-%d %H:%M:%S} is not the beginning of a day in {zone.key}, and figures are of whole days: "
            "give a date.",
            param_hint=option,
        )
    return local.date()


def _figures_as_json(sums: Sums, by: Group | None = None) -> dict[str, Any]:
    counts = asdict(sums)
    del counts["price"], counts["price_fraction"], counts["delivered_price"]
    if by in _WITHOUT_DELIVERED:
        del counts["delivered"]
    else:
        each = sums.answered_call_vnd
        counts["answered_call_vnd"] = None if each is None else f"{each:.4f}"
    return counts | {
        "answered_share": sums.answered_share,
        "mean_talk_seconds": sums.mean_talk_seconds,
        "price_vnd": f"{sums.price_vnd:.4f}",
    }


def _as_of_as_json(as_of: AsOf) -> dict[str, Any]:
    return {"as_of": plain(as_of.at), "time_zone": as_of.time_zone}


def _overview_as_json(found: Summary, as_of: AsOf) -> None:
    outcomes = {"outcomes": found.outcomes, "talk_seconds": asdict(found.talk), "callback_seconds": asdict(found.delay)}
    counts = {
        "settled": found.settled,
        "recovered_share": found.sums.recovered / found.settled if found.settled else None,
        "conflicts_ever": found.conflicts_ever,
    }
    say_json(_figures_as_json(found.sums) | counts | outcomes | _as_of_as_json(as_of))


def _groups_as_json(by: Group, found: list[tuple[Any, Sums]], as_of: AsOf) -> None:
    groups = [{by: f"{name}" if by == "day" else name, **_figures_as_json(sums, by)} for name, sums in found]
    say_json({"groups": groups} | _as_of_as_json(as_of))


def _show_overview(found: Summary, as_of: AsOf) -> None:
    sums = found.sums
    if not sums.calls:
        say("There are no figures of such calls.")
        _show_as_of(as_of)
        return
    shown = [
        ("calls", f"{sums.calls:,}"),
        *((f"  {name.replace('_', ' ')}", f"{number:,}") for name, number in found.outcomes.items()),
        _share_of_all(sums),
        ("talk time, mean", _seconds(sums.mean_talk_seconds)),
        ("talk time, median", _edge_in_words(found.talk.p50)),
        ("talk time, 90% within", _edge_in_words(found.talk.p90)),
        ("talk time, 95% within", _edge_in_words(found.talk.p95)),
        ("cost", f"{_vnd(sums)} ({sums.unpriced:,} calls without a price)"),
        ("cost of an answered call", _vnd_each(sums)),
        ("callbacks, median", _edge_in_words(found.delay.p50)),
        ("callbacks, 95% within", _edge_in_words(found.delay.p95)),
        ("callbacks, 99% within", _edge_in_words(found.delay.p99)),
        ("recovered by lookup", _of_settled(sums.recovered, found.settled)),
        ("in conflict", f"{sums.conflicts:,} ({found.conflicts_ever:,} ever, of all days and campaigns)"),
        ("never registered", f"{sums.unregistered:,}"),
    ]
    print_table("Report", shown)
    _show_as_of(as_of)


def _show_groups(by: Group, found: list[tuple[Any, Sums]], as_of: AsOf, *, wide: bool) -> None:
    if not found:
        say("There are no figures of such calls.")
    else:
        total = figures.total(sums for _, sums in found)
        columns = dict(_columns(by, total, wide=wide))

        def row(name: str, sums: Sums) -> list[str]:
            return [name, *(show(sums) for show in columns.values())]

        rows = [row(_group_name(by, name), sums) for name, sums in found]
        print_columns("Report", [by, *columns], rows, row("all", total))
    _show_as_of(as_of)


def _columns(by: Group, total: Sums, *, wide: bool) -> Iterator[tuple[str, Callable[[Sums], str]]]:
    """The header of each column, and what it shows of some calls."""
    yield "calls", lambda sums: f"{sums.calls:,}"
    if by == "key":
        yield "share", lambda sums: _percent(sums.calls / total.calls)
    else:
        yield "with\noutcome", lambda sums: f"{sums.with_outcome:,}"
        yield "answered", lambda sums: f"{sums.answered:,}"
        yield "share", lambda sums: _percent(sums.shown_answered_share)
    if total.delivered:
        yield "delivered", lambda sums: f"{sums.delivered:,}"
    yield "mean\ntalk s", lambda sums: "-" if (mean := sums.mean_talk_seconds) is None else f"{mean:.1f}"
    yield "cost\nVND", lambda sums: f"{sums.price_vnd:,.0f}"
    if by == "campaign" or (wide and by not in _WITHOUT_DELIVERED):
        yield "VND per\nanswered", lambda sums: "-" if (each := sums.answered_call_vnd) is None else f"{each:,.0f}"
    yield "no\nprice", lambda sums: f"{sums.unpriced:,}"
    yield "by\nlookup", lambda sums: f"{sums.recovered:,}"
    if wide:
        yield "confirmed", lambda sums: f"{sums.confirmed:,}"
        yield "in\nconflict", lambda sums: f"{sums.conflicts:,}"
        yield "never\nregistered", lambda sums: f"{sums.unregistered:,}"


def _group_name(by: Group, name: Any) -> str:
    if by == "hour":
        return f"{name:02}:00"
    if by == "weekday":
        return _WEEKDAYS[name - 1]
    return "(none)" if name is None else f"{name}"


def _show_as_of(as_of: AsOf) -> None:
    waiting = f"; later changes are not in them yet (marks that wait: {as_of.waiting:,})" if as_of.waiting else ""
    say(f"Figures as of {local_time(as_of.at, ZoneInfo(as_of.time_zone))}, days of {as_of.time_zone}{waiting}")


def _share_of_all(sums: Sums) -> tuple[str, str]:
    """The answered share, or of voice OTP calls the delivered one: its name and its value."""
    if sums.delivered_share is None:
        share = _percent(sums.answered_share)
        return "answered share", f"{share} ({sums.answered:,} of {sums.with_outcome:,} with an outcome)"
    of = sums.delivered + sums.with_outcome
    return "delivered share", f"{_percent(sums.delivered_share)} ({sums.delivered:,} of {of:,} delivered or failed)"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _of_settled(number: int, settled: int) -> str:
    return f"{number:,} ({number / settled:.1%} of {settled:,} settled calls)" if settled else f"{number:,}"


def _seconds(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f} s"


def _edge_in_words(edge: int | None) -> str:
    if edge is None:
        return "-"
    return (
        f"≈ {edge:,} s"
        if edge < _LONGEST_EXACT_SECONDS
        else "more than 3 days"
        if edge > 2**31
        else "more than an hour"
    )


def _vnd(sums: Sums) -> str:
    return f"{sums.price_vnd:,.0f} ₫"


def _vnd_each(sums: Sums) -> str:
    each = sums.answered_call_vnd
    return "-" if each is None else f"{each:,.0f} ₫"
