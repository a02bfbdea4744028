"""The closed words of calls and runs, in the language of the request."""

from __future__ import annotations

from flask_babel import gettext


def outcome_words() -> dict[str, str]:
    """Each outcome, in words."""
    return {
        "answered": gettext("Answered"),
        "unanswered": gettext("Not answered"),
        "rejected": gettext("Rejected"),
        "delivered": gettext("Delivered"),
        "other": gettext("Other"),
        "unknown": gettext("Unknown"),
        "missing": gettext("No result yet"),
        "given_up": gettext("Given up"),
    }


def part_words() -> dict[str, str]:
    """Each part of a column, in words."""
    return outcome_words() | {"other": gettext("Other"), "missing": gettext("Without a result")}


def run_words() -> dict[str | None, str]:
    """How a reconcile run ended, in words."""
    return {
        "done": gettext("done"),
        "failures": gettext("with failures"),
        "refused": gettext("eSMS refused the account"),
        "interrupted": gettext("interrupted"),
        "died": gettext("died"),
        None: gettext("under way"),
    }


def range_words() -> dict[str, str]:
    """The ranges of days that have a name, in words."""
    return {
        "today": gettext("Today"),
        "yesterday": gettext("Yesterday"),
        "7": gettext("7 days"),
        "30": gettext("30 days"),
        "90": gettext("90 days"),
        "365": gettext("1 year"),
        "all": gettext("All days"),
    }


def flag_words() -> dict[str, str]:
    """What the flags of a list mean, in words."""
    return {
        "conflict": gettext("In conflict"),
        "price_conflict": gettext("Two prices"),
        "price_conflict_open": gettext("Two prices, not dismissed"),
        "recovered": gettext("Recovered by lookup"),
        "unregistered": gettext("Never registered"),
        "unconfirmed": gettext("Not confirmed by eSMS"),
        "no_campaign": gettext("Without a campaign"),
    }


def error_words() -> dict[int, str]:
    """What an error is called, by its HTTP status."""
    return {
        400: gettext("This request is wrong"),
        404: gettext("There is no such page"),
        405: gettext("This cannot be done here"),
        500: gettext("An error of this program"),
        503: gettext("Not now"),
    }
