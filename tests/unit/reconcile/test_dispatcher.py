"""Look-ups in flight: each call once at a time, only within its lease, and only while eSMS answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from until import until

from webapp.esms.lookup import LookupAnswer, LookupRequest
from webapp.reconcile.dispatcher import Dispatcher
from webapp.support.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from webapp.esms.client import Client
    from webapp.reconcile.rate_limiter import RateLimiter

NO_LEASE = float("inf")


class Unlimited:
    """A rate limiter that lets every look-up leave at once; notes how it was slowed down."""

    def __init__(self) -> None:
        self.slowed_down: list[tuple[float | None, bool]] = []
        self.closed = False

    def wait(self) -> bool:
        return not self.closed

    def slow_down(self, pause_seconds: float | None, *, halve: bool) -> None:
        self.slowed_down.append((pause_seconds, halve))

    def close(self) -> None:
        self.closed = True


class ESMS:
    """Stands for eSMS: notes the calls asked about, and answers when it may; calls with codes of their own at once."""

    def __init__(self, code: str = "105", codes: dict[str, str] | None = None) -> None:
        self.asked: list[str] = []
        self.codes = codes or {}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.retry_after_seconds: float | None = None
        self.kept_connections_end = False
        self._code = code

    def look_up(self, request: LookupRequest, *, may_repeat: Callable[[], bool]) -> LookupAnswer:
        reference_id = request.reference_id
        self.asked.append(reference_id)
        if self.kept_connections_end and may_repeat():
            self.asked.append(reference_id)
        if reference_id not in self.codes:
            assert self.may_answer.wait(20)
        code = self.codes.get(reference_id, self._code)
        return LookupAnswer(reference_id, code, retry_after_seconds=self.retry_after_seconds)

    def close(self) -> None:
        pass


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    monkeypatch.chdir(tmp_path)

    def with_concurrency(concurrency: int = 4) -> Settings:
        monkeypatch.setenv("ESMS_TIMEOUT", "5s")
        monkeypatch.setenv("RECONCILE_CONCURRENCY", str(concurrency))
        return load_settings()

    return with_concurrency


@contextmanager
def dispatching(esms: ESMS, settings: Settings, limiter: Unlimited | None = None) -> Iterator[Dispatcher]:
    client: Client = esms  # type: ignore[assignment]
    rate_limiter: RateLimiter = limiter or Unlimited()  # type: ignore[assignment]
    with Dispatcher(client, rate_limiter, settings) as dispatcher:
        try:
            yield dispatcher
        finally:
            esms.may_answer.set()


def ask(dispatcher: Dispatcher, names: Iterable[str], lease_until: float) -> None:
    dispatcher.ask(map(LookupRequest, names), lease_until)


def concluded(dispatcher: Dispatcher) -> list[str]:
    """The calls whose answers come out until no look-up is in flight, or will be."""
    found: list[str] = []
    while not dispatcher.idle:
        found += [answer.reference_id for answer in dispatcher.answers()]
    return found


def calls(number: int, name: str = "call") -> list[str]:
    return [f"{name}-{place}" for place in range(number)]


# Each call once


def test_a_call_that_is_given_twice_is_asked_about_once_at_a_time(settings: Callable[..., Settings]) -> None:
    """As by a run that was stopped past its leases, and claims its own calls again."""
    esms = ESMS()
    esms.may_answer.clear()
    with dispatching(esms, settings()) as dispatcher:
        ask(dispatcher, ["a"], NO_LEASE)
        until(lambda: esms.asked)
        ask(dispatcher, ["a", "b"], NO_LEASE)
        until(lambda: "b" in esms.asked)
        esms.may_answer.set()
        assert sorted(concluded(dispatcher)) == ["a", "b"]
        assert dispatcher.unconcluded == []

        ask(dispatcher, ["a"], NO_LEASE)
        assert concluded(dispatcher) == ["a"]

    assert sorted(esms.asked) == ["a", "a", "b"]


def test_answers_come_out_together(settings: Callable[..., Settings]) -> None:
    """So that one transaction stores them; but no more than a tenth of a second later."""
    esms = ESMS()
    with dispatching(esms, settings()) as dispatcher:
        ask(dispatcher, ["a", "b", "c"], NO_LEASE)
        assert len(dispatcher.answers()) == 3

        esms.codes = {"quick": "105"}
        esms.may_answer.clear()
        ask(dispatcher, ["slow", "quick"], NO_LEASE)
        assert [answer.reference_id for answer in dispatcher.answers()] == ["quick"]


# Leases


def test_a_call_whose_answer_might_come_after_its_lease_is_not_asked_about(settings: Callable[..., Settings]) -> None:
    """Within ESMS_TIMEOUT and a second more another run may have claimed it."""
    esms = ESMS()
    with dispatching(esms, settings()) as dispatcher:
        ask(dispatcher, ["late"], time.monotonic() + 5.5)
        ask(dispatcher, ["in time"], time.monotonic() + 8)
        until(lambda: esms.asked)
        dispatcher.abandon(["late"])
        assert concluded(dispatcher) == ["in time"]
        assert dispatcher.unconcluded == []

    assert esms.asked == ["in time"]


def test_a_call_whose_lease_is_renewed_in_the_last_moment_is_asked_about(settings: Callable[..., Settings]) -> None:
    esms = ESMS()
    with dispatching(esms, settings()) as dispatcher:
        ask(dispatcher, ["a"], time.monotonic() + 5.5)
        for _ in range(3):
            assert dispatcher.answers() == []
        dispatcher.renew(["a"], NO_LEASE)
        assert concluded(dispatcher) == ["a"]

    assert esms.asked == ["a"]


def test_calls_that_are_dropped_while_they_wait_are_not_asked_about(settings: Callable[..., Settings]) -> None:
    esms = ESMS()
    esms.may_answer.clear()
    with dispatching(esms, settings()) as dispatcher:
        ask(dispatcher, calls(4), NO_LEASE)
        until(lambda: len(esms.asked) == 4)
        ask(dispatcher, ["dropped", "mine"], NO_LEASE)
        dispatcher.abandon(["dropped"])
        assert "dropped" not in dispatcher.unconcluded
        esms.may_answer.set()
        assert "mine" in concluded(dispatcher)

    assert sorted(esms.asked) == [*calls(4), "mine"]


def test_once_closed_no_look_up_leaves_and_those_in_flight_bring_their_answers(
    settings: Callable[..., Settings],
) -> None:
    esms = ESMS()
    esms.may_answer.clear()
    with dispatching(esms, settings()) as dispatcher:
        ask(dispatcher, calls(7), NO_LEASE)
        until(lambda: len(esms.asked) == 4)
        dispatcher.close()
        esms.may_answer.set()
        answered = concluded(dispatcher)
        assert sorted(answered) == sorted(esms.asked) == calls(4)
        assert sorted(dispatcher.unconcluded) == calls(7)[4:]


# eSMS refuses the account


def test_a_refused_account_ends_it_and_that_answer_is_concluded_for_no_call(settings: Callable[..., Settings]) -> None:
    esms = ESMS(codes={"refused": "101"})
    with dispatching(esms, settings(1)) as dispatcher:
        ask(dispatcher, ["a", "refused", *calls(50)], NO_LEASE)
        found = concluded(dispatcher)
        assert (dispatcher.ended, dispatcher.refused_code, dispatcher.capacity) == ("refused", "101", 0)
        assert set(dispatcher.unconcluded) == {"a", "refused", *calls(50)} - set(found)

    assert found[0] == "a"
    assert set(found) == set(esms.asked) - {"refused"}
    assert len(esms.asked) < 50


# eSMS does not answer


@pytest.mark.parametrize("code", ["timeout", "unreachable", "http-500", "http-503"])
def test_30_look_ups_in_a_row_without_an_answer_end_it_and_each_is_concluded(
    settings: Callable[..., Settings], code: str
) -> None:
    esms = ESMS(code)
    with dispatching(esms, settings(1)) as dispatcher:
        ask(dispatcher, calls(29), NO_LEASE)
        assert sorted(concluded(dispatcher)) == sorted(calls(29))
        assert dispatcher.capacity > 0
        ask(dispatcher, ["the thirtieth"], NO_LEASE)
        assert concluded(dispatcher) == ["the thirtieth"]
        assert (dispatcher.ended, dispatcher.capacity) == ("no answer", 0)
        assert dispatcher.unanswered == {code: 30}


@pytest.mark.parametrize("code", ["105", "160", "http-429", "http-404", "unreadable", "999"])
def test_any_answer_begins_the_count_anew(settings: Callable[..., Settings], code: str) -> None:
    esms = ESMS("unreachable", codes={"answered": code})
    with dispatching(esms, settings(1)) as dispatcher:
        ask(dispatcher, [*calls(29, "before"), "answered", *calls(29, "after")], NO_LEASE)
        assert len(concluded(dispatcher)) == 59
        assert dispatcher.ended is None
        assert dispatcher.unanswered.total() <= 29


@pytest.mark.parametrize("concurrency", [1, 2, 8, 29, 30, 60, 256])
def test_requests_that_are_repeated_on_a_new_connection_count_among_the_60(
    settings: Callable[..., Settings], concurrency: int
) -> None:
    esms = ESMS(code="unreachable")
    esms.kept_connections_end = True
    with dispatching(esms, settings(concurrency)) as dispatcher:
        waiting = calls(200)
        while not dispatcher.ended:
            if capacity := dispatcher.capacity:
                ask(dispatcher, [waiting.pop() for _ in range(capacity)], NO_LEASE)
            dispatcher.answers()

    assert 30 <= len(esms.asked) <= 60
    assert concurrency > 8 or len(esms.asked) > len(set(esms.asked))


def test_an_answer_lets_kept_connections_be_replaced_again(settings: Callable[..., Settings]) -> None:
    esms = ESMS()
    esms.kept_connections_end = True
    with dispatching(esms, settings(1)) as dispatcher:
        for name in calls(100):
            ask(dispatcher, [name], NO_LEASE)
            assert concluded(dispatcher) == [name]

    assert len(esms.asked) == 200


@pytest.mark.parametrize("concurrency", [1, 2, 8, 29, 30, 60, 256])
@pytest.mark.parametrize("code", ["unreachable", "http-503"])
def test_at_most_60_look_ups_leave_between_two_answers_whatever_the_concurrency(
    settings: Callable[..., Settings], concurrency: int, code: str
) -> None:
    """503 with the repeats that follow it, too."""
    esms = ESMS(code, codes={"answered": "105"})
    with dispatching(esms, settings(concurrency)) as dispatcher:
        ask(dispatcher, ["answered"], NO_LEASE)
        assert concluded(dispatcher) == ["answered"]
        esms.may_answer.clear()
        ask(dispatcher, calls(1000), NO_LEASE)
        until(lambda: len(esms.asked) == 1 + min(concurrency, 60))
        time.sleep(0.02)
        esms.may_answer.set()
        answered = concluded(dispatcher)
        assert dispatcher.ended == "no answer"

    assert 30 <= len(esms.asked) - 1 <= 60
    assert set(answered) == set(esms.asked) - {"answered"}
    assert len(answered) == len(set(answered))


def test_capacity_keeps_few_calls_claimed(settings: Callable[..., Settings]) -> None:
    esms = ESMS()
    esms.may_answer.clear()
    with dispatching(esms, settings(4)) as dispatcher:
        assert dispatcher.capacity == 8
        ask(dispatcher, calls(8), NO_LEASE)
        assert dispatcher.capacity == 0
        esms.may_answer.set()
        concluded(dispatcher)
        assert dispatcher.capacity == 8


# eSMS rate-limits


@pytest.mark.parametrize("code", ["160", "http-429", "http-503"])
def test_a_rate_limited_call_is_asked_about_three_times_more_and_then_concluded(
    settings: Callable[..., Settings], code: str
) -> None:
    esms = ESMS(codes={"limited": code})
    with dispatching(esms, settings(1)) as dispatcher:
        ask(dispatcher, ["first", "limited", "other"], NO_LEASE)
        found = concluded(dispatcher)

    assert Counter(found) == {"first": 1, "limited": 1, "other": 1}
    assert Counter(esms.asked) == {"first": 1, "limited": 4, "other": 1}
    assert esms.asked[:3] == ["first", "limited", "other"]
    assert dispatcher.slowed_down == 4


def test_a_503_is_concluded_at_once_where_esms_has_not_answered_in_this_run(settings: Callable[..., Settings]) -> None:
    esms, limiter = ESMS("http-503"), Unlimited()
    with dispatching(esms, settings(1), limiter) as dispatcher:
        ask(dispatcher, calls(3), NO_LEASE)
        assert concluded(dispatcher) == calls(3)

    assert esms.asked == calls(3)
    assert limiter.slowed_down[0] == (None, True)


@pytest.mark.parametrize(("ending", "charged"), [("no answer", True), ("refused", False), ("interrupted", False)])
def test_a_call_that_waits_for_its_repeat_when_all_ends_is_concluded_only_where_esms_does_not_answer(
    settings: Callable[..., Settings], ending: str, *, charged: bool
) -> None:
    """The next run begins with other calls then. In the other cases the call stays due as it was."""
    esms = ESMS(codes={"answered": "105", "limited": "http-503", "refused": "101"})
    with dispatching(esms, settings(1)) as dispatcher:
        ask(dispatcher, ["answered"], NO_LEASE)
        concluded(dispatcher)
        if ending == "no answer":
            esms.codes |= dict.fromkeys(calls(29), "unreachable")
            ask(dispatcher, [*calls(28), "limited", calls(29)[-1]], NO_LEASE)
        elif ending == "refused":
            ask(dispatcher, ["limited", "refused"], NO_LEASE)
        else:
            ask(dispatcher, ["limited"], NO_LEASE)
            until(lambda: "limited" in esms.asked)
            dispatcher.close()
        found = concluded(dispatcher)

    assert dispatcher.ended == (None if ending == "interrupted" else ending)
    assert ("limited" in found) == charged
    assert esms.asked.count("limited") == 1


def test_the_rate_is_halved_once_for_all_look_ups_that_left_at_the_same_rate(
    settings: Callable[..., Settings],
) -> None:
    class Busy(ESMS):
        def look_up(self, request: LookupRequest, *, may_repeat: Callable[[], bool]) -> LookupAnswer:
            answer, reference_id = super().look_up(request, may_repeat=may_repeat), request.reference_id
            return answer if self.asked.count(reference_id) > 1 else LookupAnswer(reference_id, "160")

    esms, limiter = Busy(), Unlimited()
    esms.may_answer.clear()
    with dispatching(esms, settings(4), limiter) as dispatcher:
        ask(dispatcher, calls(4), NO_LEASE)
        until(lambda: len(esms.asked) == 4)
        esms.may_answer.set()
        assert sorted(concluded(dispatcher)) == calls(4)

    assert dispatcher.slowed_down == 4
    assert limiter.slowed_down == [(None, True)]


@pytest.mark.parametrize("code", ["160", "http-429", "http-503"])
def test_retry_after_pauses_the_run(settings: Callable[..., Settings], code: str) -> None:
    esms, limiter = ESMS(code), Unlimited()
    esms.retry_after_seconds = 90
    with dispatching(esms, settings(1), limiter) as dispatcher:
        ask(dispatcher, ["a"], NO_LEASE)
        until(lambda: esms.asked)
        esms.codes = {"a": "105"}
        concluded(dispatcher)

    assert limiter.slowed_down[0] == (90, True)


@pytest.mark.parametrize(
    "answer", [LookupAnswer("limited", "160"), LookupAnswer("limited", "104", message_api_limited=True)]
)
def test_a_rate_limit_counts_before_the_next_look_up_of_the_same_thread_leaves(
    settings: Callable[..., Settings], answer: LookupAnswer
) -> None:
    """Its slot may be due already, and a pause that eSMS wants would begin one look-up too late."""

    class Limited(ESMS):
        def look_up(self, request: LookupRequest, *, may_repeat: Callable[[], bool]) -> LookupAnswer:
            other = super().look_up(request, may_repeat=may_repeat)
            return answer if self.asked == ["limited"] else other

    class Noting(Unlimited):
        def slow_down(self, pause_seconds: float | None, *, halve: bool) -> None:
            super().slow_down(pause_seconds, halve=halve)
            asked_before.extend(esms.asked)

    asked_before: list[str] = []
    esms = Limited()
    with dispatching(esms, settings(1), Noting()) as dispatcher:
        ask(dispatcher, ["limited", "other"], NO_LEASE)
        assert set(concluded(dispatcher)) == {"limited", "other"}

    assert asked_before == ["limited"]
    assert Counter(esms.asked) == {"limited": 2 if answer.rate_limited else 1, "other": 1}


def test_a_rate_limit_counts_at_once_and_not_with_the_next_batch(settings: Callable[..., Settings]) -> None:
    """More look-ups would leave in the meantime."""
    esms, limiter = ESMS(codes={"limited": "160"}), Unlimited()
    esms.may_answer.clear()
    with dispatching(esms, settings(2), limiter) as dispatcher:
        ask(dispatcher, ["slow", "limited"], NO_LEASE)
        until(lambda: len(esms.asked) >= 2)
        began = time.monotonic()
        while not limiter.slowed_down:
            dispatcher.answers()
        assert time.monotonic() - began < 1
        dispatcher.close()


def test_an_error_in_a_look_up_reaches_the_run(settings: Callable[..., Settings]) -> None:
    class Broken(ESMS):
        def look_up(self, request: LookupRequest, **_: object) -> LookupAnswer:
            raise KeyError(request.reference_id)

    with dispatching(Broken(), settings()) as dispatcher:
        ask(dispatcher, ["a"], NO_LEASE)
        with pytest.raises(KeyError):
            concluded(dispatcher)
