"""What the figures count of a call, and the classes of talk time and delays."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import NOW
from recount import HANOI, Fact, class_of

from webapp.calls.facts import DELAY_EDGES, TALK_EDGES, counted, hour_of, percentile
from webapp.calls.outcome import outcome
from webapp.calls.rule import Call
from webapp.esms.finality import SEND_STATUS_REJECTED

OPEN = Call(reference_id="a", placed_at=NOW)
SETTLED = replace(OPEN, settled_at=NOW, settled_by="callback", callback_at=NOW)
BASES = [
    OPEN,
    SETTLED,
    replace(SETTLED, call_status="ANSWERED", call_duration=7, ivr="1", price=Decimal(450)),
    replace(SETTLED, callback_at=None, settled_by="lookup", confirmed_at=NOW),
]
LATER = NOW + timedelta(days=1)
VALUES: dict[str, list[Any]] = {
    "placed_at": [LATER],
    "call_status": [None, "ANSWERED", "NOANSWERED", "BUSY"],
    "call_duration": [None, 7, 12],
    "ivr": [None, "1", "2", "12"],
    "send_status": [None, 4],
    "sent_result": [None, 0, 1],
    "price": [None, Decimal(0), Decimal("0.0001")],
    "campaign": [None, "tet"],
    "conflict": [True],
    "settled_by": [None, "callback", "lookup"],
    **{
        name: [None, NOW, LATER]
        for name in ("registered_at", "callback_at", "settled_at", "confirmed_at", "gave_up_at")
    },
}


def figures(call: Call) -> Any:
    fact = Fact(call, call.placed_at.astimezone(HANOI), outcome(call, SEND_STATUS_REJECTED))
    return fact.day, call.campaign, fact.labels, fact.measures


def test_calls_that_count_otherwise_have_another_value() -> None:
    seen = set()
    for base in BASES:
        for name, values in VALUES.items():
            for value in values:
                changed = replace(base, **{name: value})
                if figures(changed) != figures(base):
                    seen.add(name)
                    assert counted(changed) != counted(base), (name, base, value)
    assert seen == VALUES.keys()


def test_what_the_figures_do_not_need_changes_nothing() -> None:
    base = replace(BASES[2], registered_at=NOW, confirmed_at=NOW)
    others: dict[str, Any] = {"report_count": 9, "dismissed_at": NOW, "confirmed_at": LATER, "registered_at": LATER}
    names = {field.name for field in fields(Call)} - VALUES.keys()

    assert counted(replace(base, **others)) == counted(base)
    assert "lookup_count" in names
    assert counted(replace(base, lookup_count=3, next_lookup_at=LATER, phone="849", cid="84")) == counted(base)


@pytest.mark.parametrize("edges", [TALK_EDGES, DELAY_EDGES])
def test_the_edges_of_classes_are_in_order(edges: tuple[int, ...]) -> None:
    assert list(edges) == sorted(set(edges))
    assert edges[-1] >= 2**31 - 1, "the longest call that can be stored has a class"


@given(st.lists(st.integers(0, 5000), min_size=1), st.sampled_from([50, 95, 99]))
def test_a_percentile_is_the_upper_edge_of_the_class_with_it(seconds: list[int], percent: int) -> None:
    exact = sorted(seconds)[-(-len(seconds) * percent // 100) - 1]
    assert percentile([(class_of(one, TALK_EDGES), 1) for one in seconds], percent) == class_of(exact, TALK_EDGES)


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 50) is None
    assert percentile([(5, 0)], 50) is None


def test_hours_are_of_utc() -> None:
    assert hour_of(NOW.astimezone(HANOI) + timedelta(minutes=59, seconds=59)) == NOW
