"""Loads the demo's fortnight into a new database."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from demo.fortnight import fortnight
from demo.load import Loader
from webapp.esms.sandbox.service import Sandbox
from webapp.storage.database import Database
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def loaded(folder: Path, share: float) -> Database:
    """An SQLite database in ``folder`` with that share of the demo's calls; to be closed."""
    settings = Settings(instance_dir=folder, database_url=f"sqlite:///{folder}/calls.db")
    database = Database(settings.database, patience=timedelta(seconds=10))
    database.migrate()
    now = datetime.now(UTC)
    with Sandbox() as esms:
        made = fortnight(now, settings.time_zone, share=share)
        Loader(database, esms, settings).load(made, now, lambda *_: None, threading.Event())
    return database
