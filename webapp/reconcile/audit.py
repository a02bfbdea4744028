"""The audit: asks eSMS about settled calls, and finds those about which the store says something else.

eSMS signs no callback, so only its own answer shows that what is stored is true. Unless it is to put calls right, an
audit writes nothing but the slots that it reserves in the rate of all runs.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from webapp.esms.lookup import LookupRequest
from webapp.reconcile.dispatcher import Dispatcher
from webapp.reconcile.findings import Audit, Disagreement, compare
from webapp.reconcile.latencies import LatencyRecorder
from webapp.reconcile.run import rate_limiter_of
from webapp.reconcile.sampling import Sample, draw, size_of
from webapp.storage.errors import Unavailable
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from webapp.calls.report import StatusReport
    from webapp.calls.rule import Call
    from webapp.esms.client import Client
    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.database import Database
    from webapp.storage.filters import CallFilter
    from webapp.support.settings import Settings

_PORTION = 1000
_NO_LEASE = float("inf")
"""An audit claims nothing: its calls are settled, and a run may ask about them at the same time."""


class Auditor:
    """One audit. What it has found is in ``audit``, also when it was broken off."""

    def __init__(self, database: Database, client: Client, settings: Settings, *, fix: bool) -> None:
        """Prepare; nothing is asked yet. With ``fix`` eSMS's answers are stored as reports."""
        self._database = database
        self._writer = Writer(database)
        self._reader = Reader(database)
        self._client = client
        self._settings = settings
        self._fix = fix
        self._calls: Iterator[str] = iter(())
        self._all_taken = False
        self._taken = 0
        self._again: list[str] = []
        self._reports_before: dict[str, int] = {}
        self._changed: set[str] = set()
        self.audit = Audit()

    def run(
        self, wanted: CallFilter, sample: Sample | None, seed: int, *, stop: Event, watch: Callable[[Audit], None]
    ) -> Audit:
        """Ask about every call that is wanted, or about a sample; ``watch`` gets the findings as it goes.

        ``stop`` ends it once the look-ups in flight have their answers. Raises ``Unavailable``.
        """
        begun_at, audit = time.monotonic(), self.audit
        try:
            audit.population = audit.wanted = self._reader.count(wanted)
            if sample is None:
                self._calls = self._all_calls(wanted)
            else:
                audit.seed, audit.wanted = seed, size_of(sample, audit.population)
                self._calls = iter(draw(self._calls_to_draw_from(wanted, stop, watch), audit.wanted, seed))
            rate_limiter = rate_limiter_of(self._database, self._settings)
            with Dispatcher(self._client, rate_limiter, self._settings) as dispatcher:
                self._work(dispatcher, stop, watch)
        except Unavailable:
            audit.cut_short = "database"
            raise
        finally:
            audit.seconds = time.monotonic() - begun_at
        return audit

    def _calls_to_draw_from(self, wanted: CallFilter, stop: Event, watch: Callable[[Audit], None]) -> Iterator[str]:
        """All calls, in one transaction that only reads; ends early on ``stop``."""
        for reference_id in self._reader.ids(wanted):
            self.audit.drawn_from += 1
            if self.audit.drawn_from % _PORTION == 0:
                watch(self.audit)
                if stop.is_set():
                    return
            yield reference_id

    def _all_calls(self, wanted: CallFilter) -> Iterator[str]:
        """All calls, each portion in a transaction of its own: it may take days to ask about them."""
        last = ""
        while portion := self._reader.ids_after(wanted, last, _PORTION):
            yield from portion
            last = portion[-1]

    def _work(self, dispatcher: Dispatcher, stop: Event, watch: Callable[[Audit], None]) -> None:
        audit, latencies = self.audit, LatencyRecorder(self._database, dispatcher)
        while not (dispatcher.idle and (self._is_through or dispatcher.ended or stop.is_set())):
            if stop.is_set():
                dispatcher.close()
            elif capacity := dispatcher.capacity:
                self._ask(dispatcher, capacity)
            self._judge(dispatcher.answers())
            latencies.save_now_and_then()
            audit.slowed_down = dispatcher.slowed_down
            audit.clocks.note("eSMS's", dispatcher.clock_ahead)
            watch(audit)
        latencies.save()
        audit.refused_code, audit.unanswered = dispatcher.refused_code, dispatcher.unanswered
        if self._is_through and not dispatcher.ended:
            self._set_wanted(self._taken)
        audit.cut_short = dispatcher.ended or ("interrupted" if audit.unasked else None)

    def _set_wanted(self, wanted: int) -> None:
        """Set how many calls are to be asked about; without a sample, these are all that are settled by now."""
        self.audit.wanted = wanted
        if self.audit.seed is None:
            self.audit.population = wanted

    @property
    def _is_through(self) -> bool:
        return self._all_taken and not self._again

    def _ask(self, dispatcher: Dispatcher, capacity: int) -> None:
        """Ask about the next calls, and remember how many reports each has by now."""
        again, self._again = self._again[:capacity], self._again[capacity:]
        fresh = list(islice(self._calls, capacity - len(again)))
        self._taken += len(fresh)
        self._all_taken = len(again) + len(fresh) < capacity
        self._set_wanted(max(self._taken, self.audit.wanted))
        if names := again + fresh:
            known = self._reader.calls_by_id(names)
            self._reports_before.update({name: call.report_count for name, call in known.items()})
            dispatcher.ask((_lookup_request(name, known.get(name)) for name in names), _NO_LEASE)

    def _judge(self, answers: list[LookupAnswer]) -> None:
        """Compare the answers with what the store says of their calls now."""
        if not answers:
            return
        known = self._reader.calls_by_id([answer.reference_id for answer in answers])
        reports, disagreeing = [], []
        for answer in answers:
            call = known.get(answer.reference_id)
            before = self._reports_before.pop(answer.reference_id, None)
            if answer.kind == "failed":
                self.audit.failures.note(answer)
            elif call is None or not call.settled or call.report_count != before:
                self._ask_again_or_leave(answer.reference_id)
            elif answer.report is None:
                self.audit.unknown.append(answer.reference_id)
            else:
                reports.append(answer.report)
                if disagreement := self.audit.note_verdict(call, answer.report):
                    disagreeing.append(disagreement)
        if self._fix and reports:
            self._store(reports, disagreeing)

    def _ask_again_or_leave(self, reference_id: str) -> None:
        """A report came while eSMS was asked, which its answer may include or not: ask once more, then leave it."""
        if reference_id in self._changed:
            self._changed.remove(reference_id)
            self.audit.undecided.append(reference_id)
        else:
            self._changed.add(reference_id)
            self._again.append(reference_id)

    def _store(self, reports: list[StatusReport], disagreeing: list[Disagreement]) -> None:
        """Store eSMS's answers, and note whether the calls that disagreed now say the same as eSMS."""
        effects = self._writer.record(reports, self._database.now())
        of_call = {report.reference_id: (report, effect) for report, effect in zip(reports, effects, strict=True)}
        after = self._reader.calls_by_id([one.reference_id for one in disagreeing])
        for one in disagreeing:
            report, one.effect = of_call[one.reference_id]
            one.put_right = not compare(after[one.reference_id], report).differing


def _lookup_request(reference_id: str, call: Call | None) -> LookupRequest:
    return LookupRequest(reference_id, call.esms_id, call.kind) if call else LookupRequest(reference_id)
