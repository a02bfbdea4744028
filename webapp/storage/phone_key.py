"""What a database holds of phone numbers: by the settings, with the one key that its hashes were made with."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from sqlalchemy import select

from webapp.calls.phone import PhoneStorage
from webapp.storage import bulk
from webapp.storage.models import phone_key
from webapp.storage.retry import retrying
from webapp.support.settings import ConfigError

if TYPE_CHECKING:
    from datetime import datetime

    from webapp.storage.database import Database
    from webapp.support.settings import Settings


def phones_of(settings: Settings) -> PhoneStorage:
    """As the settings say; makes the key if it is needed and there is none. Raises ConfigError."""
    return PhoneStorage(settings.phone_storage, settings.phone_key())


@retrying
def require_the_same_key(database: Database, now: datetime) -> None:
    """Note the key's fingerprint when the first number is to be hashed; raises ConfigError for another key after it.

    Numbers that two machines hash with two keys would be two numbers, and no search would find both.
    """
    phones = database.phones
    if phones.mode != "hashed" or phones.key is None:
        return
    fingerprint = hmac.digest(phones.key.encode(), b"fingerprint", hashlib.sha256).hex()[:16]
    with database.transaction() as connection:
        known = connection.scalar(select(phone_key.c.fingerprint))
        if known is None:
            bulk.insert_absent(connection, phone_key, [{"one": 1, "fingerprint": fingerprint, "since": now}])
            known = connection.scalar(select(phone_key.c.fingerprint))
    if known != fingerprint:
        raise ConfigError(
            "PHONE_HASH_KEY is not the key with which this database's phone numbers were hashed. Set it to that key, "
            "or copy the file phone_hash_key from the instance folder of the machine that has it. If that key is lost, "
            "the old hashes cannot be found again: delete the row of the table phone_key to begin with a new one."
        )
