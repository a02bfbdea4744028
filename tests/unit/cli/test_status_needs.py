"""What ``status`` says needs a person, for each broken situation."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from makers import NOW

from webapp.callbacks.spool import Depth
from webapp.cli.status_needs import StatusMoment, all_needs, lookup_share_warning
from webapp.storage.rejected import LIMIT_BYTES
from webapp.storage.status import CallbackTimes, LookupShare, NoAnswer, Status, UnregisteredCounts, WrongTokens

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MOMENT = StatusMoment(
    now=NOW,
    zone=ZoneInfo("Asia/Ho_Chi_Minh"),
    lease=timedelta(minutes=5),
    lookup_share_warn=Decimal("0.05"),
    spool_limit=1 << 20,
)
EMPTY_SPOOL = Depth(reports=0, oldest_at=None, size=0)
RUN = {"started_at": NOW - MINUTE, "finished_at": NOW - MINUTE, "seen_at": NOW - MINUTE, "outcome": "done"}
UNFINISHED = {"started_at": NOW - 40 * MINUTE, "finished_at": None, "outcome": None}
SOUND = Status(
    calls=1000,
    settled=990,
    by_callback=980,
    by_lookup=10,
    missing=10,
    overdue=0,
    oldest_missing=NOW - HOUR,
    given_up=3,
    given_up_to_see_to=0,
    given_up_calls=[],
    last_day=LookupShare(500, 5),
    conflicts=1,
    price_conflicts=0,
    price_conflict_calls=[],
    rejected=0,
    rejected_reasons={},
    rejected_bytes=1000,
    other_channels=7,
    unread_last_day={},
    no_answer=NoAnswer({}, NOW - MINUTE),
    callbacks=CallbackTimes(NOW - MINUTE, HOUR, placed_since=True),
    wrong_tokens=WrongTokens(0, None, right_since=False),
    token_uses=[],
    replay_due_since=None,
    clock_ahead=timedelta(0),
    last_run=RUN,
)


def needs(spool: Depth = EMPTY_SPOOL, **changed: Any) -> list[str]:
    return list(all_needs(replace(SOUND, **changed), spool, MOMENT))


def test_a_sound_system_needs_no_person() -> None:
    assert needs() == []


@pytest.mark.parametrize(
    "usual",
    [
        UnregisteredCounts(9000, 0, last_day=4000, day_before=3000, registered_last_day=2),
        UnregisteredCounts(9000, 0, last_day=4000, day_before=12, registered_last_day=0),
        UnregisteredCounts(9000, 0, last_day=4000, day_before=12, registered_last_day=5000),
        UnregisteredCounts(999, 0, last_day=999, day_before=0, registered_last_day=2),
    ],
)
def test_unregistered_calls_as_on_other_days_or_where_none_is_registered_need_no_person(
    usual: UnregisteredCounts,
) -> None:
    assert needs(unregistered=usual) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"callbacks": CallbackTimes(NOW - 3 * HOUR, 2 * HOUR, placed_since=True)},
            ["callbacks have stopped", "2026-11-23 14:00:00", "3 h 0 min ago", "2 h 0 min", "esms-calls callback-url"],
        ),
        (
            {"wrong_tokens": WrongTokens(7, NOW - MINUTE, right_since=False)},
            ["wrong token: 7", "esms-calls callback-url", "CALLBACK_TOKEN"],
        ),
        (
            {"not_allowed_last_hour": 9},
            ["does not name: 9 in the last hour", "address not allowed", "TRUSTED_PROXIES", "rotate-token callback"],
        ),
        ({"last_day": LookupShare(100, 6)}, ["6.0% (6 of 100)", "LOOKUP_SHARE_WARN"]),
        ({"unread_last_day": {"Price": 3, "Ivr": 1}}, ["Price 3, Ivr 1", "esms-calls replay --unread"]),
        (
            {"rejected": 2, "rejected_reasons": {"ReferenceId: is missing": 2}},
            ["could not be read: 2 (ReferenceId: is missing 2)", "replay --rejected", "dismiss --rejected"],
        ),
        ({"rejected_bytes": LIMIT_BYTES}, ["256 of 256 MiB"]),
        ({"last_run": RUN | {"outcome": "refused"}}, ["refused the account", "esms-calls reconcile"]),
        (
            {"no_answer": NoAnswer({"http-503": 2, "timeout": 40}, NOW - HOUR)},
            ["eSMS does not answer: 42 missing calls", "http-503 2, timeout 40", "2026-11-23 16:00:00", "ESMS_API_URL"],
        ),
        ({"no_answer": NoAnswer({"tls": 1}, None)}, ["tls 1", "nor ever before"]),
        (
            {"overdue": 4, "last_run": RUN | {"started_at": NOW - 31 * MINUTE}},
            ["overdue: 4", "31 min ago", "timer", "--watch"],
        ),
        ({"overdue": 4, "last_run": RUN | UNFINISHED | {"seen_at": NOW - 6 * MINUTE}}, ["overdue: 4", "40 min ago"]),
        ({"overdue": 4, "last_run": None}, ["overdue: 4", "no reconcile ran yet"]),
        (
            {"unregistered": UnregisteredCounts(9000, 4000, last_day=4000, day_before=12, registered_last_day=2)},
            ["never registered: 4000 new ones", "12 in the 24 hours before", "2 registered", "rotate-token callback"],
        ),
        ({"given_up_to_see_to": 2}, ["given up: 2", "--retry-given-up", "dismiss --given-up"]),
        ({"price_conflicts": 2}, ["two prices: 2", "esms-calls show ID", "esms-calls dismiss ID"]),
        ({"replay_due_since": NOW}, ["esms-calls replay"]),
        ({"clock_ahead": 5 * MINUTE}, ["5 min ahead of the database's", "NTP"]),
        ({"clock_ahead": -61 * MINUTE / 60}, ["61 s behind the database's"]),
        ({"spool": Depth(reports=9, oldest_at=NOW - 61 * MINUTE / 60, size=1)}, ["spool: 9", "safe", "spool drain"]),
    ],
)
def test_each_broken_situation_is_one_line_that_says_what_to_do(changed: dict[str, Any], words: list[str]) -> None:
    (line,) = needs(**changed)

    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    "changed",
    [
        {"callbacks": CallbackTimes(NOW - 3 * HOUR, 4 * HOUR, placed_since=True)},
        {"callbacks": CallbackTimes(NOW - 30 * HOUR, HOUR, placed_since=False)},
        {"callbacks": CallbackTimes(None, HOUR, placed_since=True)},
        {"wrong_tokens": WrongTokens(7, NOW - MINUTE, right_since=True)},
        {"last_day": LookupShare(100, 5)},
        {"overdue": 4, "last_run": RUN | {"started_at": NOW - 29 * MINUTE}},
        {"overdue": 4, "last_run": RUN | UNFINISHED},
        {"last_run": RUN | {"outcome": "failures"}},
        {"clock_ahead": -MINUTE},
        {"spool": Depth(reports=9, oldest_at=NOW - MINUTE, size=1)},
    ],
)
def test_what_may_be_so_in_a_sound_system_needs_no_person(changed: dict[str, Any]) -> None:
    assert needs(**changed) == []


@pytest.mark.parametrize(
    ("settled", "by_lookup", "warn", "warns"),
    [
        (0, 0, "0.05", False),
        (100, 5, "0.05", False),
        (100, 6, "0.05", True),
        (1000, 50, "0.05", False),
        (1000, 51, "0.05", True),
        (3, 3, "1", False),
        (1000, 1, "0", True),
        (1000, 0, "0", False),
        (1000, 7, "0.007", False),
    ],
)
def test_more_than_the_share_that_is_set_is_warned_of(settled: int, by_lookup: int, warn: str, *, warns: bool) -> None:
    warning = lookup_share_warning(LookupShare(settled, by_lookup), Decimal(warn))

    assert (warning is not None) == warns
    if warning:
        assert f"({by_lookup} of {settled})" in warning
        assert "LOOKUP_SHARE_WARN" in warning
        assert "esms-calls callback-url" in warning
