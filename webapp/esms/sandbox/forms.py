"""What the sandbox's callbacks say: voice calls, voice OTP and other channels, in the documented forms."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from webapp.esms.sandbox.calls import SEND_STATUS_DONE, SEND_STATUS_SENT, SEND_STATUS_WAITING, call_as_of

if TYPE_CHECKING:
    from webapp.esms.sandbox.calls import PlacedCall

VOICE_OTP = 8
"""TypeId of a voice OTP: *documented*."""
_ADVERTISING = 1
_SPELLING = {"ANSWERED": "ANSWERED", "NOANSWERED": "NO ANSWER", None: ""}
"""Outcomes in callbacks: *documented*; None is the published example of a failed call."""


class DueCallback(NamedTuple):
    """One callback: the SendStatus of its call at which it is due, and its parameters. ``late``: some time after."""

    due_at: int
    parameters: dict[str, str]
    late: bool = False


def callbacks_of(call: PlacedCall) -> list[DueCallback]:
    """The call's callbacks, in the order of their sending."""
    if call.silent:
        return []
    progress = (
        []
        if call.old_template
        else [
            DueCallback(status, _parameters(call_as_of(call, status)))
            for status in (SEND_STATUS_WAITING, SEND_STATUS_SENT)
        ]
    )
    if call.undetermined:
        undecided = replace(call, price=Decimal(0))
        return [*progress, DueCallback(SEND_STATUS_DONE, message_parameters(undecided, counts=(0, 0)))]
    if call.lost:
        return progress
    final = [DueCallback(SEND_STATUS_DONE, _parameters(one)) for one in _final(call)]
    if call.late:
        waiting, sent = progress
        return [waiting, final[0], sent._replace(due_at=SEND_STATUS_DONE, late=True), *final[1:]]
    return [*progress, *final]


def _final(call: PlacedCall) -> list[PlacedCall]:
    """What the final callbacks say, in their order."""
    if call.redialed:
        nothing = {"call_status": "NOANSWERED", "call_duration": 0, "ivr": None, "price": Decimal(0), "sent_result": 0}
        unanswered = replace(call, **nothing)  # type: ignore[arg-type]
        return [unanswered, call] if call.redialed == "no answer first" else [call, unanswered]
    if call.repeat_price is not None:
        return [call, replace(call, price=call.repeat_price)]
    return [call, call] if call.doubled else [call]


def _parameters(call: PlacedCall) -> dict[str, str]:
    return voice_parameters(call) if call.kind == "voice" else message_parameters(call)


def voice_parameters(call: PlacedCall) -> dict[str, str]:
    """The parameters of a voice call's callback, named and ordered as in the published example."""
    parameters = {
        "ReferenceId": call.reference_id,
        "CallDuration": str(call.call_duration),
        "CallStatus": _SPELLING[call.call_status],
        "Ivr": call.ivr or "",
        "Price": f"{call.price:.4f}",
        "SentResult": str(call.sent_result),
        "CID": call.cid,
        "SendStatus": str(call.send_status),
    }
    if call.old_template:
        del parameters["SendStatus"]
    return parameters


def message_parameters(call: PlacedCall, counts: tuple[int, int] | None = None) -> dict[str, str]:
    """The parameters of a voice OTP's callback; ``counts`` are SendSuccess and SendFailed, if not as the call ended."""
    over = call.send_status == SEND_STATUS_DONE
    success, failed = counts or (int(over and bool(call.sent_result)), int(over and not call.sent_result))
    return {
        "SMSID": call.reference_id,
        "SendFailed": str(failed),
        "SendStatus": str(call.send_status),
        "SendSuccess": str(success),
        "TotalPrice": f"{call.price:.4f}",
        "TotalReceiver": "1",
        "TotalSent": "1",
        "RequestId": call.request_id or "",
        "TypeId": str(VOICE_OTP),
        "telcoid": "1",
        "phonenumber": call.phone,
    }


def other_channel_message(call: PlacedCall) -> DueCallback:
    """A message of another channel, reported to the same URL at the time of this call."""
    count = 169 if call.other_channel == _ADVERTISING else 1
    identity = f"{call.reference_id[:8]}-other-channel-{call.number}"
    message = replace(call, reference_id=identity, price=Decimal(696987) if count > 1 else Decimal(350), sent_result=1)
    said = {"TypeId": str(call.other_channel), "TotalReceiver": str(count), "TotalSent": str(count)}
    counts = {"SendSuccess": str(count), "SendFailed": "0", "SendStatus": str(SEND_STATUS_DONE)}
    return DueCallback(SEND_STATUS_DONE, message_parameters(message) | said | counts)


def filled(callback_url: str, parameters: dict[str, str], *, slash: bool = False, complete: bool = False) -> str:
    """The CallbackUrl with these parameters filled in where they stand.

    If it names none of them, or with ``complete``, those that it does not name are appended.
    """
    url, values = urlsplit(callback_url), {name: quote(text, safe="") for name, text in parameters.items()}
    given = [pair.partition("=") for pair in url.query.split("&") if pair]
    named = {name for name, _, _ in given}
    if complete or not named & values.keys():
        given += [(name, "=", "") for name in values if name not in named]
    pairs = (f"{name}={values[name]}" if name in values else name + equals + value for name, equals, value in given)
    path = f"{url.path}/" if slash and not url.path.endswith("/") else url.path
    return url._replace(path=path, query="&".join(pairs), fragment="").geturl()
