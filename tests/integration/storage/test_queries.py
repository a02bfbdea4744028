"""The queries in docs/data.md run on the tables as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.storage.database import Database

ROOT = Path(__file__).parents[3]


def test_every_query_in_the_documents_runs(database: Database) -> None:
    queries = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    assert len(queries) >= 4
    with database.snapshot(limited=False) as connection:
        for query in queries:
            connection.exec_driver_sql(query).all()
