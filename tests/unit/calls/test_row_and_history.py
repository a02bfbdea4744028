"""Where the row may decide, it gives what the whole history gives, for any reports of both kinds."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from constants import sized
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import NOW, any_of, at

from webapp.calls import rule
from webapp.calls.report import StatusReport
from webapp.calls.rule import Call, Registration
from webapp.esms.finality import is_final

if TYPE_CHECKING:
    from collections.abc import Sequence


def report(undetermined: bool, **values: Any) -> StatusReport:  # noqa: FBT001
    numbers = {name: values[name] for name in ("send_status", "call_status", "sent_result")}
    return StatusReport(final=is_final(**numbers, undetermined=undetermined), reference_id="a", **values)


REPORTS = st.builds(
    report,
    undetermined=st.sampled_from([False, False, True]),
    id=st.integers(1, 9).map(lambda number: UUID(int=number)),
    source=st.sampled_from(["callback", "callback", "lookup"]),
    received_at=st.integers(0, 6).map(at),
    kind=any_of("voice", "otp"),
    esms_id=any_of("A", "a"),
    call_status=any_of("ANSWERED", "NOANSWERED"),
    call_duration=any_of(0, 7),
    ivr=any_of("1"),
    sent_result=any_of(0, 1),
    send_status=any_of(2, 7, 5, 5, 4, 6),
    price=any_of(Decimal("1.0000"), Decimal("2.0000")),
    cid=any_of("1", "2"),
    phone=any_of("0", "1"),
)
HISTORIES = st.lists(REPORTS, min_size=1, max_size=8, unique_by=lambda one: one.id)
REGISTRATIONS = st.none() | st.builds(
    Registration, reference_id=st.just("a"), phone=any_of("9"), kind=any_of("otp"), esms_id=any_of("AA")
)


def written(reports: Sequence[StatusReport], registration: Registration | None) -> Call:
    """The call as the writer keeps it: each report folded onto the row, or the whole history."""
    call = Call(reference_id="a", placed_at=reports[0].received_at)
    if registration:
        call = rule.register(call, registration, at(3))
    seen: list[StatusReport] = []
    for one in reports:
        seen.append(one)
        call = rule.fold(call, one) if rule.row_decides(call, one) else rule.fold_all(call, seen)
    return call


@settings(max_examples=sized(100), deadline=None)
@given(HISTORIES, REGISTRATIONS, st.randoms(use_true_random=False))
def test_any_order_of_writing_gives_the_fold_of_the_set(
    history: list[StatusReport], registration: Registration | None, chance: Any
) -> None:
    in_order = sorted(history, key=lambda one: one.order)
    shuffled = list(history)
    chance.shuffle(shuffled)
    base = Call(reference_id="a", placed_at=NOW)
    if registration:
        base = rule.register(base, registration, at(3))
    expected = rule.fold_all(base, history)

    assert written(in_order, registration) == replace(expected, placed_at=written(in_order, registration).placed_at)
    assert written(shuffled, registration) == written(in_order, registration)
    assert rule.fold_all(written(in_order, registration), history) == written(in_order, registration)
    assert rule.fold_all(expected, history) == expected
