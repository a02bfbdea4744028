"""The words of a call and its reports on the page: in English those of ``esms-calls show``."""

from __future__ import annotations

from flask_babel import gettext


def labels() -> dict[str, str]:
    """What each fact, and each value that a report says, is called."""
    return {
        "call_status": gettext("Status"),
        "call_duration": gettext("Talk time"),
        "ivr": gettext("Key"),
        "send_status": "SendStatus",
        "sent_result": "SentResult",
        "price": gettext("Price"),
        "cid": gettext("Called from"),
        "kind": gettext("Kind"),
        "phone": gettext("Phone"),
        "campaign": gettext("Campaign"),
        "request_id": gettext("Request id"),
        "esms_id": gettext("Id at eSMS"),
        "placed_at": gettext("Placed"),
        "registered_at": gettext("Registered"),
        "callback_at": gettext("First final callback"),
        "settled_at": gettext("Settled"),
        "settled_by": gettext("Settled by"),
        "confirmed_at": gettext("Confirmed by eSMS"),
        "gave_up_at": gettext("Given up"),
        "dismissed_at": gettext("Dismissed"),
        "next_lookup_at": gettext("Next look-up"),
        "lookup_count": gettext("Look-ups"),
        "last_lookup_code": gettext("Last look-up"),
    }


def effects() -> dict[str, str]:
    """What a report did."""
    return {
        "settled": gettext("settled the call"),
        "stale": gettext("changed nothing: the call was settled already"),
        "conflict": gettext("disagreed with the settled call"),
        "corrected": gettext("corrected the call"),
        "confirmed": gettext("confirmed the call"),
        "enriched": gettext("added to the settled call"),
        "progressed": gettext("was progress"),
        "duplicate": gettext("said nothing new"),
    }


def sources() -> dict[str, str]:
    """Who said a value."""
    return {
        "registered": gettext("as registered"),
        "callback": gettext("by callback"),
        "lookup": gettext("by lookup"),
    }


def reporters() -> dict[str, str]:
    """What a report is."""
    return {"callback": gettext("Callback"), "lookup": gettext("Look-up")}


def meanings(name: str) -> dict[int, str]:
    """What eSMS's numbers mean, for the value of this name."""
    return {
        "sent_result": {0: gettext("failed at the carrier"), 1: gettext("succeeded at the carrier")},
        "send_status": {
            0: gettext("draft"),
            1: gettext("awaiting approval"),
            2: gettext("waiting to be sent"),
            3: gettext("being sent"),
            4: gettext("rejected"),
            5: gettext("done"),
            6: gettext("deleted"),
            7: gettext("sent, result awaited"),
        },
    }.get(name, {})
