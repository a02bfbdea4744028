"""Late reports: from its trail, a call takes a report at any place of the order as the rule takes the whole history."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import NOW, any_of, at, callback, lookup

from webapp.calls import late, rule, schedule
from webapp.calls.late import Trail
from webapp.calls.report import StatusReport
from webapp.calls.rule import Call, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ANSWERED = {"call_status": "ANSWERED"}
NOT_ANSWERED = {"call_status": "NOANSWERED"}
SENT = {"send_status": 7}
DONE = {"send_status": 5}


class Row:
    """One call in memory with its trail, and how often its history had to be read."""

    def __init__(self) -> None:
        self.call = Call(reference_id="a", placed_at=NOW)
        self.trail = Trail()
        self.history: list[StatusReport] = []
        self.readings = 0

    def take(self, report: StatusReport) -> None:
        self.history.append(report)
        told = late.insert(Trail.loads(self.trail.dumps()), self.call, report)
        if told is None:
            self.readings += 1
            told = late.trail_of(self.history), self.folded()
        self.trail, self.call = told

    def folded(self) -> Call:
        return rule.fold_all(self.call, self.history)


def row_of(reports: Iterable[StatusReport]) -> Row:
    row = Row()
    for report in reports:
        row.take(report)
    return row


# Any reports at any place


def reports(**origin: Any) -> st.SearchStrategy[StatusReport]:
    """Of few moments, so that several are of the same."""
    return st.builds(
        StatusReport,
        id=st.integers(1, 99).map(lambda number: UUID(int=number)),
        reference_id=st.just("a"),
        received_at=st.integers(0, 7).map(at),
        call_status=any_of("ANSWERED", "NOANSWERED"),
        call_duration=any_of(0, 7),
        ivr=any_of("1"),
        send_status=any_of(2, 7, 5, 5),
        sent_result=any_of(0, 1),
        price=any_of(Decimal("1.0000"), Decimal(2)),
        request_id=any_of("0", "1"),
        phone=any_of("0", "1"),
        **origin,
    )


REGISTRATIONS = st.builds(
    Registration,
    reference_id=st.just("a"),
    phone=any_of("2"),
    request_id=any_of("2"),
    campaign=any_of("june"),
    placed_at=any_of(at(0), at(9)),
)
CALLBACKS = reports(source=st.just("callback"))
LOOKUPS = reports(source=st.just("lookup"), lookup_code=st.sampled_from(["100", "99"]))
DELIVERIES = st.lists(
    st.one_of(CALLBACKS, CALLBACKS, LOOKUPS, REGISTRATIONS),
    min_size=1,
    max_size=12,
    unique_by=lambda word: getattr(word, "id", word),
)


@settings(max_examples=400, deadline=None)
@given(DELIVERIES)
def test_after_each_report_the_call_is_the_fold_of_the_set_of_its_reports(
    delivery: list[StatusReport | Registration],
) -> None:
    row = Row()
    for second, word in enumerate(delivery):
        if isinstance(word, Registration):
            row.call = rule.register(row.call, word, at(second))
        else:
            row.take(word)
            assert row.call == row.folded()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(CALLBACKS, LOOKUPS), max_size=12, unique_by=lambda report: report.id))
def test_a_trail_of_a_history_is_that_of_its_reports_one_after_the_other_and_needs_no_reading(
    history: list[StatusReport],
) -> None:
    row = row_of(sorted(history, key=lambda report: report.order))

    assert row.readings == 0
    assert late.trail_of([*history, *reversed(history)]) == row.trail


def test_what_only_registrations_look_ups_and_plans_change_is_kept() -> None:
    row = row_of([callback("a", 2, **ANSWERED), callback("a", 1, **SENT)])
    row.call = rule.register(row.call, Registration(reference_id="a", phone="1", campaign="june"), at(3))
    row.call = schedule.give_up(schedule.charge(row.call, row.call, "104", at(3), spread=1), at(3))
    before = replace(row.call, next_lookup_at=at(4), lookup_backoff=2)
    row.call = before
    row.take(callback("a", 0, phone="2"))

    assert row.call == replace(before, report_count=3, placed_at=at(0))


# What the trail cannot tell


@pytest.mark.parametrize(
    ("forgotten", "reports"),
    [
        pytest.param(
            "cid",
            [*(callback("a", second, **SENT, cid=str(second)) for second in (1, 3, 4)), callback("a", 2, **ANSWERED)],
            id="progress before a first final report that came after later progress",
        ),
        pytest.param(
            "conflict",
            [
                *(callback("a", second, **ANSWERED) for second in (1, 4, 6)),
                callback("a", 2, **NOT_ANSWERED),
                lookup("a", 5, **DONE),
            ],
            id="whether callbacks agreed before the lookup or after it",
        ),
    ],
)
def test_what_is_forgotten_is_read_from_the_history_once(forgotten: str, reports: list[StatusReport]) -> None:
    row = row_of(reports[:-1])
    assert row.readings == 0

    row.take(reports[-1])
    assert row.readings == 1
    assert getattr(row.call, forgotten) == getattr(row.folded(), forgotten)

    for report in (callback("a", 1.5, **SENT), callback("a", 7, **ANSWERED), lookup("a", 4.5, **DONE)):
        row.take(report)
        assert (row.call, row.readings) == (row.folded(), 1)


@pytest.mark.parametrize(
    "reports",
    [
        [callback("a", 1, **SENT, cid="1"), callback("a", 3, **SENT, cid="1"), callback("a", 2, **ANSWERED, cid="2")],
        [callback("a", 3, **SENT, cid="1"), callback("a", 4, **SENT, cid="2"), callback("a", 2, **ANSWERED)],
        [callback("a", 2, **ANSWERED), callback("a", 1, **NOT_ANSWERED), lookup("a", 1.5, **DONE)],
        [
            *(callback("a", s, **ANSWERED) for s in (1, 4, 6)),
            callback("a", 2, **NOT_ANSWERED),
            lookup("a", 3, **ANSWERED),
        ],
        [
            *(callback("a", s, **ANSWERED) for s in (1, 4, 6)),
            callback("a", 2, **NOT_ANSWERED),
            lookup("a", 1.5, **DONE),
        ],
        [
            *(callback("a", s, **ANSWERED) for s in (4, 6)),
            *(callback("a", s, **NOT_ANSWERED) for s in (1, 2)),
            lookup("a", 5, **DONE),
        ],
    ],
)
def test_what_can_be_told_from_the_trail_needs_no_reading(reports: list[StatusReport]) -> None:
    row = row_of(reports)

    assert (row.call, row.readings) == (row.folded(), 0)


def test_a_trail_that_missed_a_report_tells_nothing() -> None:
    row = row_of([callback("a", 1, **ANSWERED)])
    written_without_it = rule.fold(row.call, callback("a", 2, **NOT_ANSWERED))

    assert late.insert(row.trail, written_without_it, callback("a", 3, **ANSWERED)) is None


# A call that is reported again and again


def many_reports(number: int, chance: random.Random) -> list[StatusReport]:
    """Progress, final callbacks that mostly agree and some lookups, two in each second, in their order."""

    def one_of(*values: Any) -> Any:
        return chance.choice(values) if chance.random() < 0.7 else None

    def report(place: int) -> StatusReport:
        source = lookup if chance.random() < 0.05 else callback
        said = {"cid": one_of("1", "2"), "phone": one_of("0")}
        if chance.random() < 0.5:
            said |= {"send_status": chance.choice([0, 1, 2, 7]), "ivr": one_of("1", "2")}
        else:
            said |= chance.choice([ANSWERED] * 9 + [NOT_ANSWERED] + [DONE] * 5)
            said |= {"call_duration": one_of(7, 8), "price": one_of(Decimal("450.0000"))}
        return source("a", place // 2, id=UUID(int=place), **said)

    return [report(place) for place in range(number)]


DELIVERED: dict[str, Callable[[list[StatusReport], random.Random], list[StatusReport]]] = {
    "shuffled": lambda history, chance: chance.sample(history, len(history)),
    "newest first": lambda history, _: history[::-1],
    "each a little late": lambda history, chance: sorted(history, key=lambda r: r.id.int + chance.uniform(0, 10)),
    "two backlogs in turn": lambda history, _: [
        report for pair in zip(history, history[1000:], strict=False) for report in pair
    ],
}


@pytest.mark.parametrize("delivered", DELIVERED)
def test_of_2000_reports_in_disorder_hardly_one_needs_the_history(delivered: str) -> None:
    chance = random.Random(delivered)  # noqa: S311
    row = row_of(DELIVERED[delivered](many_reports(2000, chance), chance))

    assert row.call == row.folded()
    assert row.readings < 20


def test_the_trail_does_not_grow_with_the_number_of_reports() -> None:
    chance = random.Random("size")  # noqa: S311
    history = [
        replace(report, remote_addr="a" * 200, cid=chance.choice("bc") * 200) for report in many_reports(3000, chance)
    ]
    row = Row()
    sizes = []
    for report in chance.sample(history, len(history)):
        row.take(report)
        sizes.append(len(row.trail.dumps()))

    assert max(sizes[100:]) < 1.5 * max(sizes[:100])
    assert max(sizes) < 8192


def test_a_trail_is_read_as_it_was_written() -> None:
    row = row_of(
        [
            callback("a", 0.000001, **ANSWERED, price=Decimal("0.0000"), cid="\x00é\ud800"),
            callback("a", 2, **NOT_ANSWERED, price=Decimal("450.10"), call_duration=0),
            callback("a", 1, **SENT),
            lookup("a", 3, **DONE, ivr="007"),
        ]
    )
    written = row.trail.dumps()

    assert written.isascii()
    assert repr(Trail.loads(written)) == repr(row.trail)
    assert Trail.loads(Trail().dumps()) == Trail()
