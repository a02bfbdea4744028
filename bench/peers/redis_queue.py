"""Queue: Flask answers once Redis has the message; a worker (``python -m``) moves messages to PostgreSQL.

The worker removes messages only after their commit, and stores none twice. Redis keeps to its default persistence.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import redis
from flask import Flask, request

from bench.peers.message import parse
from bench.peers.statement import COLUMNS, STORE

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

LIST = "callbacks"
_AT_ONCE = 100

app = Flask(__name__)
queue = redis.Redis(port=int(os.environ["REDIS_PORT"]))


@app.route("/esms/callback/<token>", methods=["GET", "POST"])
def receive(token: str) -> ResponseReturnValue:  # noqa: ARG001 - the peers check no token
    """Answer once the message is in the list."""
    queue.rpush(LIST, json.dumps(parse(request.values, request.remote_addr), default=str))
    return {"result": "queued"}


def _row(message: bytes | str) -> list[Any]:
    row = json.loads(message)
    row["id"] = UUID(row["id"])
    row["price"] = row["price"] and Decimal(row["price"])
    for name in ("received_at", "settled_at"):
        row[name] = row[name] and datetime.fromisoformat(row[name])
    return [row[name] for name in COLUMNS]


def work() -> None:
    """Store messages until the process is stopped."""
    with psycopg.connect(os.environ["DATABASE_URL"], cursor_factory=psycopg.RawCursor) as connection:
        while True:
            messages = queue.lrange(LIST, 0, _AT_ONCE - 1)
            if not messages:
                time.sleep(0.01)
                continue
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(STORE, [_row(message) for message in messages])
            queue.ltrim(LIST, len(messages), -1)


if __name__ == "__main__":
    work()
