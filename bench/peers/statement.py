"""Upsert and history in one PostgreSQL statement, for the peers that send SQL themselves. Parameters by number."""

from __future__ import annotations

from bench.peers.message import FIELDS

COLUMNS = ("id", "reference_id", "received_at", "settled_at", "payload", "remote_addr", *FIELDS)
"""The parameters in order, $1 first: names of ``message.parse``."""

_NUMBER = {name: f"${number}" for number, name in enumerate(COLUMNS, start=1)}
_FIELDS = ", ".join(FIELDS)
_VALUES = ", ".join(_NUMBER[name] for name in FIELDS)
_NEWEST = ", ".join(f"{name} = coalesce(excluded.{name}, calls.{name})" for name in FIELDS)

STORE = f"""
WITH history AS (
  INSERT INTO status_reports (id, reference_id, received_at, payload, remote_addr, {_FIELDS})
  VALUES ($1, $2, $3, $5, $6, {_VALUES})
  ON CONFLICT (id) DO NOTHING
  RETURNING id
)
INSERT INTO calls (reference_id, placed_at, settled_at, last_reported_at, report_count, updated_at, {_FIELDS})
SELECT $2, $3, $4, $3, 1, $3, {_VALUES} FROM history
ON CONFLICT (reference_id) DO UPDATE SET
  settled_at = coalesce(calls.settled_at, excluded.settled_at), last_reported_at = excluded.last_reported_at,
  report_count = calls.report_count + 1, updated_at = excluded.updated_at, {_NEWEST}
"""  # noqa: S608 - of the names above
