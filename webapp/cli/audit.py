"""The command audit: reads its options, runs the audit, and shows its findings and what they prove."""

from __future__ import annotations

import re
import secrets
import sys
from datetime import datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import lookup_words
from webapp.cli.context import client_of, open_context
from webapp.cli.exit_codes import DONE, PROBLEM, REFUSED
from webapp.cli.options import placed_since, placed_until
from webapp.cli.output import printable_line, say, say_json
from webapp.cli.signals import stop_at_signals
from webapp.esms.lookup import LOOKUP_FIELDS
from webapp.reconcile.audit import Auditor
from webapp.storage.errors import Unavailable
from webapp.storage.filters import CallFilter
from webapp.storage.types import plain
from webapp.support.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from webapp.reconcile.findings import Audit
    from webapp.reconcile.sampling import Sample
    from webapp.support.progress import ShowProgress

_SHOWN_CALLS = 50
_LONGEST_TRANSACTION = timedelta(minutes=2)
_LARGEST_SEED = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exactly."""
_CANNOT_CONFIRM = "not cid, not the price of a voice call, and no value that eSMS or the store leaves empty"


# click's ParamType is generic only from 8.3 on.
class _SampleSize(click.ParamType):  # type: ignore[type-arg]
    """An option such as 1000, or 0.5%."""

    name = "sample"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sample:
        """Read it, or say what is wrong."""
        number, share = re.fullmatch(r"[0-9]{1,12}", value), re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,12})?)%", value)
        sample = int(value) if number else Fraction(share[1]) / 100 if share else 0
        if not sample or (share and sample > 1):
            self.fail(f"{value!r} is neither a number of calls, such as 1000, nor a share, such as 1%", param, ctx)
        return sample


@click.command()
@placed_since
@placed_until
@click.option("--campaign", metavar="NAME", help="Only calls of this campaign.")
@click.option(
    "--unregistered",
    is_flag=True,
    help="Only calls that were never registered: everything known of them came by callback.",
)
@click.option(
    "--sample",
    type=_SampleSize(),
    metavar="N|SHARE%",
    help="Ask about this many of them, or this share (rounded up), drawn at random.  [default: all]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, _LARGEST_SEED),
    metavar="N",
    help="With --sample: draw the calls that this seed draws.  [default: a random seed, which is printed]",
)
@click.option(
    "--fix", is_flag=True, help="Store eSMS's answers as reports, so that they correct and confirm the calls."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object; messages go to stderr.")
def audit(
    *,
    since: datetime | None,
    until: datetime | None,
    campaign: str | None,
    unregistered: bool,
    sample: Sample | None,
    seed: int | None,
    fix: bool,
    as_json: bool,
) -> None:
    """Ask eSMS (GetSendStatus) about settled calls, and report where the store disagrees.

    eSMS signs no callback, so only an audit shows whether what is stored is true. It finds forged and mistaken
    callbacks, and later results that were lost. GetSendStatus can confirm call_status, call_duration, ivr, send_status,
    sent_result, and the price of a voice OTP. It cannot confirm cid, the price of a voice call, nor a value that eSMS
    or the store leaves empty.

    Every settled call in the range is asked about, however old it is. If eSMS says that a call is not over, the call
    disagrees in send_status. If eSMS does not know a call (104, 105), the call is listed as unknown: it is forged, or
    too old for eSMS. If a report about a call arrives while eSMS is asked, the call is asked about once more. If that
    happens again, or if eSMS does not say how the call ended, the call is undecided.

    A --sample also shows how large the share of disagreeing calls can be among all calls in the range that eSMS knows
    (Clopper and Pearson's upper bound at 95 % confidence). Unknown, undecided and failed calls are left out of it.

    Without --fix no call and no report is written. With it the answers are stored as reports, which correct calls that
    disagree and confirm calls that agree. A call that eSMS does not know, or says is not over, stays as it is.

    All look-ups share one rate with reconcile (RECONCILE_RATE). After 30 look-ups in a row without an answer the audit
    ends. Ctrl-C and SIGTERM end it once the look-ups in flight have their answers. It then shows what it has found.
    Needs ESMS_API_KEY and ESMS_SECRET_KEY.

    \b
    Exit codes:
      0  eSMS knows every call that was to be asked about, and none disagrees
      1  some disagree (also where --fix put them right), are unknown or
         undecided, look-ups failed, or the audit ended early
      2  usage or settings
      3  eSMS refuses the account; the message says what to do
      4  the database cannot be reached
    """  # noqa: D301 - click wants the control character
    if seed is not None and sample is None:
        raise click.UsageError("--seed goes with --sample.")
    wanted = CallFilter(
        campaign=campaign, since=since, until=until, settled=True, registered=False if unregistered else None
    )
    seed = secrets.randbelow(2**32) if seed is None else seed
    with open_context(at_most=_LONGEST_TRANSACTION) as context:
        auditor = Auditor(context.database, client_of(context.settings), context.settings, fix=fix)
        try:
            with stop_at_signals() as stop, progress("audit", None) as show:
                found = auditor.run(wanted, sample, seed, stop=stop, watch=_shows_progress(show))
        except Unavailable:
            if auditor.audit.asked:
                _show_audit(auditor.audit, context.settings.esms_api_url, fix=fix, as_json=as_json)
            raise
        _show_audit(found, context.settings.esms_api_url, fix=fix, as_json=as_json)
    sys.exit(REFUSED if found.cut_short == "refused" else DONE if found.all_agree else PROBLEM)


def _shows_progress(show: ShowProgress) -> Callable[[Audit], None]:
    def watch(audit: Audit) -> None:
        if not audit.asked and audit.drawn_from < audit.population and audit.seed is not None:
            show(audit.drawn_from, "calls read, to draw from", audit.population)
        else:
            findings = f"{len(audit.disagreeing)} disagree, {len(audit.unknown)} unknown, {audit.failed} failed"
            show(audit.asked, f"calls asked about, {findings}", audit.wanted)

    return watch


def _show_audit(audit: Audit, url: str, *, fix: bool, as_json: bool) -> None:
    if as_json:
        say_json(_as_json(audit, fix=fix))
    elif audit.wanted:
        _show_disagreeing(audit, fix=fix)
        _show_calls("unknown to eSMS (code 104 or 105): forged, or too old for it", audit.unknown)
        _show_calls("undecided: eSMS does not say how they ended, or they changed while it was asked", audit.undecided)
    for line in _sentences(audit, fix=fix):
        say(line, err=as_json)
    for line in _trouble(audit, url):
        say(line, err=as_json or line.startswith("Error: "))


def _as_json(audit: Audit, *, fix: bool) -> dict[str, Any]:
    return {
        "population": audit.population,
        "sample": None if audit.seed is None else audit.wanted,
        "seed": audit.seed,
        "asked": audit.asked,
        "agree": audit.agree,
        "disagree": [
            {"reference_id": one.reference_id, "fields": list(one.stored), "final": one.final}
            | {"stored": _plain(one.stored), "esms": _plain(one.esms)}
            | ({"effect": one.effect, "put_right": one.put_right} if fix else {})
            for one in audit.disagreeing
        ],
        "unknown": audit.unknown,
        "undecided": audit.undecided,
        "failed": audit.failed,
        "failures": dict(audit.failures.counts),
        "unasked": audit.unasked,
        "cut_short": audit.cut_short,
        "bound": audit.bound,
        "fields": list(LOOKUP_FIELDS),
        "compared": {name: audit.compared[name] for name in LOOKUP_FIELDS},
        "more": dict(audit.more),
        "seconds": round(audit.seconds, 3),
    }


def _show_disagreeing(audit: Audit, *, fix: bool) -> None:
    """One line for each call; columns are as wide as their widest value, so that every id can be copied."""
    if not audit.disagreeing:
        return
    rows = [("reference id", "field", "stored", "eSMS says", *(["effect"] if fix else []))]
    for one in audit.disagreeing[:_SHOWN_CALLS]:
        said = _values(one.esms) + ("" if one.final else " (not over)")
        effect = [f"{one.effect}{'' if one.put_right else ' (stays)'}"] if fix else []
        rows.append((printable_line(one.reference_id), ", ".join(one.stored), _values(one.stored), said, *effect))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    _show_rest(len(audit.disagreeing), _SHOWN_CALLS)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in values.items()}


def _values(values: dict[str, Any]) -> str:
    return ", ".join(printable_line(str(value)) for value in values.values())


def _show_calls(title: str, reference_ids: list[str]) -> None:
    if reference_ids:
        say(f"{title}: {len(reference_ids)}")
        for reference_id in reference_ids[:_SHOWN_CALLS]:
            say(f"  {printable_line(reference_id)}")
        _show_rest(len(reference_ids), _SHOWN_CALLS)


def _show_rest(of_all: int, shown: int) -> None:
    if of_all > shown:
        say(f"  and {of_all - shown} more; --json has them all")


def _sentences(audit: Audit, *, fix: bool) -> Iterator[str]:
    """What was asked, what was found, and what that proves."""
    if not audit.population:
        yield "No call in this range is settled: there is nothing to ask about."
        return
    if not audit.asked:
        yield f"No call was asked about, of {audit.population}: nothing is proved."
        return
    yield (
        f"Asked about {audit.asked} of {audit.population} settled calls in {audit.seconds:.1f} s: {audit.agree} agree, "
        f"{len(audit.disagreeing)} disagree, {len(audit.unknown)} are unknown to eSMS, {len(audit.undecided)} are "
        f"undecided, {audit.failed} failed."
    )
    compared = ", ".join(f"{name} of {audit.compared[name]}" for name in LOOKUP_FIELDS)
    yield f"Compared with what eSMS says: {compared}; {_CANNOT_CONFIRM}."
    if audit.more:
        more = ", ".join(f"{name} of {number}" for name, number in audit.more.items())
        yield f"eSMS says more than the store has: {more}."
    yield _estimate(audit)
    if fix and audit.disagreeing:
        right = sum(one.put_right for one in audit.disagreeing)
        yield f"Stored: of {len(audit.disagreeing)} calls that disagreed, {right} now say what eSMS says."


def _estimate(audit: Audit) -> str:
    """What is known of the calls that were not asked about."""
    again = "" if audit.seed is None else f" (--seed {audit.seed} draws them again)"
    if audit.bound is not None:
        left_out = "; unknown, undecided and failed calls are left out" if audit.checked < audit.asked else ""
        share = f"at most {_percent_at_most(audit.bound)} of the {audit.population} calls disagree"
        return f"A random sample of {audit.checked}{again}: with 95 % confidence {share}{left_out}."
    if audit.sampled:
        return f"Nothing is known about the share of disagreeing calls: no answer confirmed or contradicted one{again}."
    if audit.unasked:
        return "Nothing is estimated for the other calls: those asked about are not a random sample."
    return "Every settled call in the range was asked about: nothing is estimated."


def _percent_at_most(share: float) -> str:
    """Rounded up, for it is a bound."""
    percent = 100 * share
    digits = 2 if percent >= 1 else 4
    step = 10**digits
    return f"{-(-percent * step // 1) / step:.{digits}f} %"


def _trouble(audit: Audit, url: str) -> Iterator[str]:
    """What kept the audit from asking about every call, and what to do."""
    for code, number in sorted(audit.failures.counts.items()):
        named = audit.failures.named(code)
        yield f"failed with {printable_line(code)}: {number}. {lookup_words.what_failed(code, audit.failures)}".rstrip()
        rest = f" and {number - len(named)} more" if number > len(named) else ""
        yield f"  {', '.join(map(printable_line, named))}{rest}"
    yield from lookup_words.clocks(audit.clocks)
    if audit.slowed_down:
        yield lookup_words.slowed_down(audit.slowed_down)
    if audit.refused_code:
        yield lookup_words.refused(audit.refused_code)
    if audit.cut_short == "no answer":
        yield lookup_words.no_answer(audit.unanswered, url, audit.failures)
    if audit.unasked:
        yield f"not asked about: {audit.unasked}, because {lookup_words.why(audit.cut_short)}"
