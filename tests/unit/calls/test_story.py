"""The story of a call: what is shown as a change, what is folded, and who said a value."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.calls.report import FIELDS
from webapp.calls.story import EFFECTS_IN_WORDS, FACTS, SAID, source_of, story


def report(**said: Any) -> dict[str, Any]:
    usual = {"source": "callback", "effect": "progressed", "lookup_code": None, "remote_addr": None, "unread": None}
    return usual | dict.fromkeys(SAID) | said


def changes_of(*reports: dict[str, Any]) -> list[list[tuple[str, Any, Any]]]:
    return [[(said.name, said.value, said.before) for said in step.said] for step in story(reports)]


def test_all_that_a_report_may_say_is_in_the_story_and_known_of_the_call() -> None:
    assert set(SAID) == set(FIELDS)
    assert set(SAID) <= set(FACTS)


def test_a_value_is_a_change_only_where_another_was_said_before() -> None:
    steps = changes_of(
        report(send_status=2), report(send_status=5, call_duration=0), report(send_status=5, call_duration=9)
    )
    assert steps == [
        [("send_status", 2, None)],
        [("send_status", 5, 2), ("call_duration", 0, None)],
        [("send_status", 5, None), ("call_duration", 9, 0)],
    ]


def test_what_a_report_leaves_unsaid_stays_known() -> None:
    assert changes_of(report(ivr="1"), report(), report(ivr="2")) == [[("ivr", "1", None)], [], [("ivr", "2", "1")]]


def test_what_a_late_progress_report_says_replaces_nothing() -> None:
    steps = changes_of(
        report(send_status=5, call_duration=31, effect="settled"),
        report(send_status=7, call_duration=0, cid="028", effect="stale"),
        report(send_status=5, call_duration=31, cid="028", effect="enriched"),
    )
    assert steps[1:] == [
        [("send_status", 7, None), ("call_duration", 0, None), ("cid", "028", None)],
        [("send_status", 5, None), ("call_duration", 31, None), ("cid", "028", None)],
    ]


def test_another_price_of_a_callback_that_agrees_replaces_nothing() -> None:
    """The first word on the price stands; a callback that disagreed with the outcome brought its own price."""
    steps = changes_of(
        report(price="450.0000", effect="settled"),
        report(price="45000.0000", effect="enriched"),
        report(price="0.0000", effect="conflict"),
    )
    assert steps[1:] == [[("price", "45000.0000", None)], [("price", "0.0000", "450.0000")]]


@pytest.mark.parametrize(
    ("effect", "more", "steps"),
    [
        ("duplicate", {}, [1, 2]),
        ("duplicate", {"remote_addr": "203.0.113.9"}, [1, 1, 1]),
        ("duplicate", {"unread": "Ivr"}, [1, 1, 1]),
        ("stale", {}, [1, 1, 1]),
    ],
)
def test_only_repetitions_that_are_alike_are_folded(effect: str, more: dict[str, Any], steps: list[int]) -> None:
    reports = [report(effect="settled"), report(effect=effect), report(effect=effect, **more)]
    assert [len(step.reports) for step in story(reports)] == steps


def test_no_reports_are_no_story() -> None:
    assert list(story([])) == []


def test_every_effect_has_words() -> None:
    assert list(EFFECTS_IN_WORDS) == [
        *("settled", "stale", "conflict", "corrected", "confirmed", "enriched", "progressed", "duplicate")
    ]


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("phone", "1", "registered"),
        ("campaign", "tet", "registered"),
        ("call_status", "BUSY", "lookup"),
        ("cid", "7", "callback"),
        ("price", "4.0000", None),
        ("ivr", None, None),
        ("lookup_count", 3, None),
    ],
)
def test_a_value_has_the_source_that_said_it(name: str, value: Any, source: str | None) -> None:
    reports = [report(cid="7", call_status="BUSY", phone="1"), report(source="lookup", call_status="BUSY")]
    call = {"registered_fields": "phone,placed_at", "registered_at": "2026", "reports": reports, name: value}
    assert source_of(name, call) == source
