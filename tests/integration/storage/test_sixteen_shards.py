"""Sixteen databases, each with a sixteenth of the calls: a report costs what it costs on one. See docs/scale.md."""

from __future__ import annotations

import uuid
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from constants import sized
from makers import NOW, callback
from outages import PostgreSQL, postgresql_of_ones_own
from sqlalchemy import make_url

from webapp.storage.database import Database
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARDS = 16
CALLS = sized(60)
"""Of each shard; each has three reports."""
BATCH = 20
REPORTS: tuple[dict[str, Any], ...] = (
    {"send_status": 2},
    {"send_status": 7},
    {"send_status": 5, "call_status": "ANSWERED", "price": 450},
)


@dataclass(frozen=True)
class Cost:
    """What one report costs its database server."""

    transactions: float
    pages: float
    """Read or changed, in memory or not."""
    log_bytes: float


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql_of_ones_own() as server:
        yield server


@pytest.fixture(scope="module")
def shards(postgres: PostgreSQL) -> list[str]:
    """Their URLs: migrated databases without rows on one server."""
    first = postgres.new_database()
    with closing(Database(first)) as database:
        database.migrate()
    url = make_url(first)
    names = [f"shard_{uuid.uuid4().hex}" for _ in range(SHARDS)]
    postgres.run(*(f"CREATE DATABASE {name} TEMPLATE {url.database}" for name in names))
    return [url.set(database=name).render_as_string(hide_password=False) for name in names]


def shard_of(reference_id: str, number: int) -> int:
    return zlib.crc32(reference_id.encode()) % number


def calls_by_shard(number: int) -> list[list[str]]:
    """As many calls for each shard, found by their hash."""
    found: list[list[str]] = [[] for _ in range(number)]
    while min(map(len, found)) < CALLS:
        reference_id = str(uuid.uuid4())
        mine = found[shard_of(reference_id, number)]
        if len(mine) < CALLS:
            mine.append(reference_id)
    return found


def cost(postgres: PostgreSQL, urls: list[str]) -> Cost:
    """Store three reports of each call, in batches as a receiver of the shard would, and count what that takes."""
    before, lsn = counted(postgres, urls)
    for url, names in zip(urls, calls_by_shard(len(urls)), strict=True):
        with closing(Database(url)) as database:
            writer = Writer(database)
            for seconds, said in enumerate(REPORTS):
                for start in range(0, CALLS, BATCH):
                    batch = [callback(name, seconds, **said) for name in names[start : start + BATCH]]
                    writer.record(batch, NOW + timedelta(seconds=seconds))
    after, lsn_after = counted(postgres, urls)
    reports = len(urls) * CALLS * len(REPORTS)
    spent = after - before
    return Cost(spent["transactions"] / reports, spent["pages"] / reports, (lsn_after - lsn) / reports)


def counted(postgres: PostgreSQL, urls: list[str]) -> tuple[Counter[str], int]:
    """Transactions and pages of these databases since ever, and the position in the server's log."""
    names = ", ".join(f"'{make_url(url).database}'" for url in urls)
    ((transactions, pages),) = postgres.run(
        "CHECKPOINT",
        f"SELECT sum(xact_commit), sum(blks_hit + blks_read) FROM pg_stat_database WHERE datname IN ({names})",  # noqa: S608
    )
    ((position,),) = postgres.run("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    return Counter(transactions=int(transactions), pages=int(pages)), int(position)


def test_a_report_costs_the_same_on_one_shard_and_on_sixteen(postgres: PostgreSQL, shards: list[str]) -> None:
    alone = cost(postgres, shards[:1])
    together = cost(postgres, shards[1:] + shards[:1])
    print(f"one: {alone}\nsixteen: {together}")

    assert together.transactions == pytest.approx(alone.transactions, rel=0.1)
    assert together.pages == pytest.approx(alone.pages, rel=0.15)
    assert together.log_bytes == pytest.approx(alone.log_bytes, rel=0.15)
    for url in shards[1:]:
        (answered,) = postgres.run("SELECT count(*) FROM calls WHERE outcome = 'answered'", database=_name(url))
        assert answered == (CALLS,)


def _name(url: str) -> str:
    return str(make_url(url).database)


def test_two_schemas_of_one_database_are_two_shards(postgres: PostgreSQL) -> None:
    """Each with all of its tables, also for a distributed database that spreads schemas."""
    url = make_url(postgres.new_database())
    role, name = url.username, str(url.database)
    postgres.run(*(f"CREATE SCHEMA shard_{place} AUTHORIZATION {role}" for place in (1, 2)), database=name)
    for place in (1, 2):
        shard = url.update_query_dict({"options": f"-csearch_path=shard_{place}"})
        with closing(Database(shard.render_as_string(hide_password=False))) as database:
            assert database.migrate()[0] is None, "it does not see the other's tables"
            Writer(database).record([callback(f"only-{place}", send_status=5)], NOW)
            database.check()
    for place in (1, 2):
        assert postgres.run(f"SELECT reference_id FROM shard_{place}.calls", database=name) == [(f"only-{place}",)]  # noqa: S608
    assert postgres.run("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=name) == [(0,)]
