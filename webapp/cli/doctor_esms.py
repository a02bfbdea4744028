"""Doctor's checks of eSMS: the keys are accepted, and the clocks agree. It asks about a call that cannot be."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from webapp.cli.context import client_of
from webapp.cli.doctor_check import failed, halves, ok, skipped, warning
from webapp.cli.doctor_database import clock_check
from webapp.esms import lookup
from webapp.esms.lookup import LookupRequest
from webapp.support.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.cli.doctor_check import Check
    from webapp.esms.lookup import LookupAnswer
    from webapp.support.settings import Settings

_VOICE, _OTP = "eSMS keys", "eSMS keys for voice OTP"
_CLOCK_CHECK = "clock of eSMS"


def esms_checks(settings: Settings) -> Iterator[Check]:
    """Ask each status function once, about an id that eSMS has never given; nothing is stored."""
    if not (settings.esms_api_key or settings.esms_secret_key):
        yield skipped(
            _VOICE,
            "ESMS_API_KEY and ESMS_SECRET_KEY are not set: eSMS is never asked about missing calls",
            "set both, from your eSMS account; then have a timer run `esms-calls reconcile`",
        )
        yield skipped(_CLOCK_CHECK, "eSMS was not asked")
        return
    try:
        client = client_of(settings)
    except ConfigError as error:
        yield failed(_VOICE, *halves(str(error)))
        return
    identifier = str(uuid4())
    try:
        answer = client.look_up(LookupRequest(identifier, kind="voice"))
        yield _account_check(_VOICE, "ESMS_API_URL", answer)
        yield _clock_of_esms(answer)
        if settings.message_api_url:
            answer = client.look_up(LookupRequest(identifier, kind="otp"))
            yield _account_check(_OTP, "ESMS_MESSAGE_API_URL", answer)
    finally:
        client.close()


def _account_check(name: str, setting: str, answer: LookupAnswer) -> Check:
    code = answer.code
    if code in lookup.UNKNOWN_CALL:
        return ok(name, f"eSMS accepts them (code {code} for a call that does not exist)")
    if code in lookup.ACCOUNT_REFUSED:
        found, _, remedy = lookup.ACCOUNT_REFUSED[code].partition(": ")
        return failed(name, f"eSMS refuses the account (code {code}): {found}", remedy)
    if answer.problem:
        found, mark, remedy = answer.problem.rstrip(".").partition("; ")
        words = (found, remedy) if mark else halves(answer.problem, f"check the network and {setting}")
        return failed(name, *words)
    if code == lookup.UNREADABLE or code.startswith("http-"):
        return failed(
            name,
            f"no answer of GetSendStatus came from {setting} ({code})",
            f"check {setting}; if it is right, wait: eSMS may be down",
        )
    if code == lookup.TOO_FAST:
        return warning(name, f"eSMS limits the rate of look-ups now (code {code})", "run this again in a minute")
    return warning(
        name,
        f"eSMS answers with code {code} for a call that does not exist, which says nothing of the keys",
        "see eSMS's table of error codes, and run this again later",
    )


def _clock_of_esms(answer: LookupAnswer) -> Check:
    if answer.clock_ahead is None:
        return skipped(_CLOCK_CHECK, "eSMS sends no Date")
    return clock_check(_CLOCK_CHECK, "eSMS's clock", answer.clock_ahead or timedelta(0))
