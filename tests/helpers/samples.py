"""What eSMS publishes about its messages, every one once, with where on the protocol page it was seen. Plain data."""

from __future__ import annotations

from typing import NamedTuple


class Sample(NamedTuple):
    """A message as it is published."""

    text: str
    seen: str


FAILED_CALL = Sample(
    "ReferenceId=066107ee-6ec4-4283-b595-aa74977c65c5&CallDuration=0&CallStatus=&Ivr=&Price=0.0000&SentResult=0"
    "&CID=02871002454&SendStatus=5",
    "The callback, published example",
)
VOICE_OTP = Sample(
    "SMSID=dc712784-9c5f-4c69-b9a8-ea69d56adc9a87&SendFailed=0&SendStatus=5&SendSuccess=1&TotalPrice=470.0000"
    "&TotalReceiver=1&TotalSent=1&RequestId=&TypeId=8&telcoid=1&phonenumber=0901888484",
    "The callback, example of a voice OTP call",
)
CALLBACK_TEMPLATE = Sample(
    "ReferenceId=&CallDuration=&CallStatus=&Ivr=&Price=&SentResult=&CID=&SendStatus=",
    "The callback, CallbackUrl is passed URL-encoded",
)

FINISHED_CALL = Sample(
    '{"CallDuration": 13, "CallStatus": "ANSWERED", "CodeResponse": "100", "Ivr": "",'
    ' "ReferenceId": "505139D7-54F8-48A9-88FA-9460A78731DD", "SendStatus": 5, "SentResult": 1}',
    "GetSendStatus, success",
)
WRONG_KEYS = Sample(
    '{"CodeResult": "101", "CountRegenerate": 0, "ErrorMessage": "Authorize Failed"}',
    "GetSendStatus, failure",
)

PLACED = Sample('{"CodeResult": "100", "SMSID": "…"}', "Placing a call, answer")
TEMPLATE_NOT_FOUND = Sample('{"CodeResult": "104", "ErrorMessage": "Template not found"}', "Placing a call, answer")

IDENTITIES = (
    Sample("066107ee-6ec4-4283-b595-aa74977c65c5", "Identities, lower case"),
    Sample("505139D7-54F8-48A9-88FA-9460A78731DD", "Identities, upper case, from GetSendStatus"),
    Sample("dc712784-9c5f-4c69-b9a8-ea69d56adc9a87", "Identities, a GUID with digits appended"),
    Sample("82b0bb8aed914a0aab8deba567c9b8c2", "Identities, without dashes"),
    Sample("8eb2af6d-fb4c4814-b9cc-4c0e3ed32edf ", "Identities, a dash short and with a trailing space"),
)
