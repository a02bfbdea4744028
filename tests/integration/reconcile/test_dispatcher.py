"""Asking about calls that are handed in: each once at a time, only while it is ours, and by batches as answers come."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from reconciling import wait_until

from webapp.calls.pace import LONGEST_PAUSE, Pace
from webapp.esms.lookup import LookupAnswer
from webapp.reconcile.dispatcher import Dispatcher
from webapp.storage.lookup_rate import Slots
from webapp.support.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.esms.client import Client
    from webapp.storage.writer import Writer

FOREVER = float("inf")


class Paced:
    """A shared pace without a database."""

    def __init__(self) -> None:
        self.at = Pace(next_slot_at=datetime.now(UTC))
        self._lock = threading.Lock()

    def reserve_slots(self, wanted: int, rate: int, *, lead: timedelta, after_slowdown: int) -> Slots:
        with self._lock:
            now = datetime.now(UTC)
            number = wanted if self.at.share_at(now) > 1 / 4 else after_slowdown
            self.at, slots = self.at.reserve(now + lead, number, rate)
            return Slots(slots, now, time.monotonic())

    def slow_down(self, pause_seconds: float | None, *, halve: bool) -> None:
        with self._lock:
            now = datetime.now(UTC)
            self.at = self.at.slowed(now) if halve else self.at
            if pause_seconds is not None:
                self.at = self.at.paused(now + timedelta(seconds=min(pause_seconds, LONGEST_PAUSE.total_seconds())))


class Asked:
    """Stands for eSMS: keeps who was asked about, and answers once it may; where it has a code of its own, at once."""

    def __init__(self, code: str = "105") -> None:
        self.asked: list[str] = []
        self.codes: dict[str, str] = {}
        self.may = threading.Event()
        self.may.set()
        self._code = code

    def prepare(self) -> None:
        pass

    def look_up(self, reference_id: str) -> LookupAnswer:
        self.asked.append(reference_id)
        if reference_id not in self.codes:
            assert self.may.wait(20)
        return LookupAnswer(reference_id, self.codes.get(reference_id, self._code))

    def close(self) -> None:
        pass


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name, value in {"ESMS_TIMEOUT": "5s", "RECONCILE_RATE": "1000", "RECONCILE_CONCURRENCY": "4"}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@contextmanager
def asking(esms: Asked, settings: Settings) -> Iterator[Dispatcher]:
    client: Client = esms  # type: ignore[assignment]
    writer: Writer = Paced()  # type: ignore[assignment]
    with Dispatcher(client, writer, settings) as dispatcher:
        try:
            yield dispatcher
        finally:
            esms.may.set()


def all_answers(dispatcher: Dispatcher) -> list[str]:
    """What comes out until nothing is on its way any more."""
    told: list[str] = []
    while not dispatcher.idle:
        told += [answer.reference_id for answer in dispatcher.answers()]
    return told


def test_a_call_that_is_handed_in_twice_is_asked_about_once_at_a_time(settings: Settings) -> None:
    """As by a run that stood still for so long that it could claim its own calls once more."""
    esms = Asked()
    esms.may.clear()
    with asking(esms, settings) as dispatcher:
        dispatcher.ask(["a"], FOREVER)
        wait_until(lambda: esms.asked)
        dispatcher.ask(["a", "b"], FOREVER)
        wait_until(lambda: "b" in esms.asked)
        esms.may.set()
        assert sorted(all_answers(dispatcher)) == ["a", "b"]
        assert dispatcher.in_hand == []

        dispatcher.ask(["a"], FOREVER)
        assert all_answers(dispatcher) == ["a"]

    assert sorted(esms.asked) == ["a", "a", "b"]


@pytest.mark.parametrize("code", ["105", "unreachable"])
def test_a_call_is_not_asked_about_again_before_its_answer_came_out(settings: Settings, code: str) -> None:
    """One that waits for its batch, or that is held back until eSMS gives a sign of life."""
    esms = Asked()
    esms.may.clear()
    esms.codes = {"a": code}
    with asking(esms, settings) as dispatcher:
        dispatcher.ask(["slow", "a"], FOREVER)
        wait_until(lambda: len(esms.asked) == 2)
        time.sleep(0.1)
        assert dispatcher.answers() == []
        dispatcher.ask(["a"], FOREVER)
        esms.may.set()
        assert sorted(all_answers(dispatcher)) == ["a", "slow"]

    assert sorted(esms.asked) == ["a", "slow"]


def test_a_call_whose_answer_might_come_too_late_is_not_asked_about(settings: Settings) -> None:
    """Within ESMS_TIMEOUT and a second more it may be another run's."""
    esms = Asked()
    with asking(esms, settings) as dispatcher:
        dispatcher.ask(["late"], time.monotonic() + 5.5)
        dispatcher.ask(["in time"], time.monotonic() + 8)
        wait_until(lambda: esms.asked)
        dispatcher.lose(["late"])
        assert all_answers(dispatcher) == ["in time"]
        assert dispatcher.in_hand == []

    assert esms.asked == ["in time"]


def test_a_call_that_is_kept_in_the_last_moment_is_asked_about_after_all(settings: Settings) -> None:
    esms = Asked()
    with asking(esms, settings) as dispatcher:
        dispatcher.ask(["a"], time.monotonic() + 5.5)
        for _ in range(5):
            assert dispatcher.answers() == []
        dispatcher.keep(FOREVER)
        assert all_answers(dispatcher) == ["a"]

    assert esms.asked == ["a"]


def test_calls_that_are_lost_while_they_wait_are_not_asked_about_and_others_are(settings: Settings) -> None:
    esms = Asked()
    esms.may.clear()
    with asking(esms, settings) as dispatcher:
        dispatcher.ask([f"first-{number}" for number in range(4)], FOREVER)
        wait_until(lambda: len(esms.asked) == 4)
        dispatcher.ask(["lost", "mine"], FOREVER)
        dispatcher.lose(["lost"])
        dispatcher.keep(FOREVER)
        assert "lost" not in dispatcher.in_hand
        esms.may.set()
        assert "mine" in all_answers(dispatcher)

    assert sorted(esms.asked) == ["first-0", "first-1", "first-2", "first-3", "mine"]


def test_once_closed_nothing_leaves_and_what_waits_is_still_in_hand(settings: Settings) -> None:
    esms = Asked()
    esms.may.clear()
    with asking(esms, settings) as dispatcher:
        names = [f"call-{number}" for number in range(7)]
        dispatcher.ask(names, FOREVER)
        wait_until(lambda: len(esms.asked) == 4)
        dispatcher.close()
        esms.may.set()
        answered = all_answers(dispatcher)
        assert sorted(answered) == sorted(esms.asked)
        assert sorted(dispatcher.in_hand) == sorted(set(names) - set(answered))


def test_a_refused_account_ends_it_and_nothing_is_held_against_the_calls(settings: Settings) -> None:
    esms = Asked("unreachable")
    esms.codes = {"refused": "101"}
    with asking(esms, settings) as dispatcher:
        dispatcher.ask(["a", "b"], FOREVER)
        assert all_answers(dispatcher) == []
        assert dispatcher.unheard == {"unreachable": 2}
        dispatcher.ask(["refused"], FOREVER)
        assert sorted(all_answers(dispatcher)) == ["a", "b"]  # eSMS is there: these two did fail
        assert (dispatcher.ended, dispatcher.refused_code, dispatcher.capacity) == ("refused", "101", 0)
        assert dispatcher.in_hand == ["refused"]


def test_that_it_is_too_fast_counts_at_once_and_not_with_the_next_batch(settings: Settings) -> None:
    """Meanwhile others would leave."""
    esms = Asked()
    esms.may.clear()
    esms.codes = {"too fast": "160"}
    with asking(esms, settings) as dispatcher:
        dispatcher.ask(["slow", "too fast"], FOREVER)
        wait_until(lambda: len(esms.asked) == 2)
        time.sleep(0.1)
        assert dispatcher.answers() == []
        assert dispatcher.slowed == 1
        dispatcher.close()


def test_failures_are_the_calls_own_only_where_esms_is_not_down(settings: Settings) -> None:
    with asking(Asked("timeout"), settings) as dispatcher:
        dispatcher.ask([f"call-{number}" for number in range(29)], FOREVER)
        assert all_answers(dispatcher) == []
        assert (dispatcher.ended, dispatcher.capacity) == (None, 8)
        assert len(dispatcher.failures()) == 29
    with asking(Asked("timeout"), settings) as dispatcher:
        dispatcher.ask([f"call-{number}" for number in range(30)], FOREVER)
        assert all_answers(dispatcher) == []
        assert (dispatcher.failures(), dispatcher.ended, dispatcher.unheard) == ([], "down", {"timeout": 30})
        assert len(dispatcher.in_hand) == 30


def test_after_forty_without_a_sign_of_life_some_from_elsewhere_tell_whether_esms_is_down(settings: Settings) -> None:
    with asking(Asked("timeout"), settings) as dispatcher:
        dispatcher.ask([f"call-{number}" for number in range(39)], FOREVER)
        assert all_answers(dispatcher) == []
        assert (dispatcher.doubtful, dispatcher.capacity) == (False, 1)
        dispatcher.ask(["the fortieth"], FOREVER)
        assert all_answers(dispatcher) == []
        assert (dispatcher.doubtful, dispatcher.capacity, dispatcher.ended) == (True, 8, None)
        dispatcher.ask([f"elsewhere-{number}" for number in range(16)], FOREVER)
        assert all_answers(dispatcher) == []
        assert (dispatcher.capacity, dispatcher.ended, dispatcher.unheard) == (0, "down", {"timeout": 56})


@pytest.mark.usefixtures("settings")
def test_a_silence_while_very_many_are_on_their_way_leaves_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILE_CONCURRENCY", "60")
    esms = Asked()
    esms.codes = {"alive": "105", "silent": "timeout"}
    with asking(esms, load_settings()) as dispatcher:
        dispatcher.ask(["alive"], FOREVER)
        assert all_answers(dispatcher) == ["alive"]
        esms.may.clear()
        dispatcher.ask(["silent", *(f"slow-{number}" for number in range(59))], FOREVER)
        while not dispatcher.unheard:
            assert dispatcher.answers() == []
        assert dispatcher.capacity == 0


def test_failures_after_a_sign_of_life_are_the_calls_own_up_to_forty(settings: Settings) -> None:
    for number, ended in ((39, None), (40, "down")):
        esms = Asked("timeout")
        esms.codes = {"alive": "105"}
        with asking(esms, settings) as dispatcher:
            dispatcher.ask(["alive"], FOREVER)
            assert all_answers(dispatcher) == ["alive"]
            dispatcher.ask([f"call-{number}" for number in range(number)], FOREVER)
            assert all_answers(dispatcher) == []
            assert len(dispatcher.failures()) == (0 if ended else number)
            assert dispatcher.ended == ended
