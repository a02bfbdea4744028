"""Which calls are wanted: the one filter of API, export and commands."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import and_, or_

from webapp.calls.phone import e164
from webapp.storage.models import calls
from webapp.storage.search import Search

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from webapp.calls.phone import PhoneStorage

IS_MISSING = and_(calls.c.settled_at.is_(None), calls.c.gave_up_at.is_(None))
"""The condition that a call is missing: it has no final report, and was not given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls are wanted; None is any. ``since`` is inclusive, ``until`` exclusive, of ``placed_at``."""

    outcomes: tuple[str, ...] | None = None
    kind: str | None = None
    status: str | None = None
    ivr: str | None = None
    campaign: str | None = None
    """In any form of Unicode: names are kept in NFC."""
    phone: str | None = None
    """In any spelling: ``0901 888 484`` finds ``+84901888484``."""
    phone_hash: str | None = None
    """The same number as ``PHONE_STORAGE=hashed`` stores it."""
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reference_ids: tuple[str, ...] | None = None
    missing: bool | None = None
    conflict: bool | None = None
    price_conflict: bool | None = None
    dismissed: bool | None = None
    recovered: bool | None = None
    """Settled by a lookup, without any final callback."""
    settled: bool | None = None
    confirmed: bool | None = None
    registered: bool | None = None
    has_campaign: bool | None = None
    search: Search | None = None

    def also_hashed(self, phones: PhoneStorage) -> CallFilter:
        """The same, which finds a hashed phone number too, where there is a key."""
        return self if self.phone is None else replace(self, phone_hash=phones.hashed(self.phone))

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        equal = (
            (calls.c.kind, self.kind),
            (calls.c.call_status, self.status),
            (calls.c.ivr, self.ivr),
            (calls.c.campaign, self.campaign and unicodedata.normalize("NFC", self.campaign)),
            (calls.c.request_id, self.request_id and unicodedata.normalize("NFC", self.request_id)),
        )
        wanted: list[ColumnElement[bool]] = [column == value for column, value in equal if value is not None]
        if self.outcomes is not None:
            wanted.append(calls.c.outcome.in_(self.outcomes))
            # Said as the indexes of these few calls say it.
            if self.outcomes == ("missing",):
                wanted.append(IS_MISSING)
            elif self.outcomes == ("given_up",):
                wanted.append(calls.c.gave_up_at.is_not(None))
        if self.phone is not None:
            wanted.append(has_phone(self.phone, self.phone_hash))
        if self.since is not None:
            wanted.append(calls.c.placed_at >= self.since)
        if self.until is not None:
            wanted.append(calls.c.placed_at < self.until)
        if self.reference_ids is not None:
            wanted.append(calls.c.reference_id.in_(self.reference_ids))
        if self.search is not None:
            wanted.append(self.search.condition())
        flags = (
            (IS_MISSING, self.missing),
            (calls.c.conflict, self.conflict),
            (calls.c.price_conflict, self.price_conflict),
            (calls.c.dismissed_at.is_not(None), self.dismissed),
            (and_(calls.c.settled_by == "lookup", calls.c.callback_at.is_(None)), self.recovered),
            (calls.c.settled_at.is_not(None), self.settled),
            (calls.c.confirmed_at.is_not(None), self.confirmed),
            (calls.c.registered_at.is_not(None), self.registered),
            (calls.c.campaign.is_not(None), self.has_campaign),
        )
        return [*wanted, *(flag if value else ~flag for flag, value in flags if value is not None)]


def has_phone(phone: str, phone_hash: str | None = None) -> ColumnElement[bool]:
    """Whether a call is to this number, or to one with this hash.

    Each part says the condition of the index that it is read from.
    """
    number = e164(phone)
    texts = [text for text in (None if number else phone, phone_hash) if text]
    is_text = and_(calls.c.phone.in_(texts), calls.c.phone_e164.is_(None), calls.c.phone.is_not(None))
    if number is None:
        return is_text
    return or_(calls.c.phone_e164 == number, is_text) if texts else calls.c.phone_e164 == number


EVERY_CALL = CallFilter()
