"""The main job, end to end over real HTTP: in a campaign all goes wrong that can, and in the end nothing is missing.

`make campaign` runs it with 5,000 calls.
"""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from running import esms_calls, serving
from sqlalchemy import func, or_, select, update

from webapp.esms.sandbox.calls import expected, normalised
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox
from webapp.storage.filters import IS_MISSING
from webapp.storage.models import calls, rejected_callbacks

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.esms.sandbox.calls import PlacedCall
    from webapp.storage.database import Database
    from webapp.support.settings import Settings

CALLS = int(os.environ.get("CAMPAIGN_CALLS", "300"))
SEED = int(os.environ.get("CAMPAIGN_SEED", "7"))
MOST_RUNS = 20
ODDITIES: dict[str, Any] = {
    "lost": 0.10,
    "doubled": 0.05,
    "late": 0.05,
    "late_by": 0.2,
    "otp": 0.20,
    "undetermined": 0.10,
    "redialed": 0.10,
    "repriced": 0.05,
    "rejected": 0.05,
    "blocked": 0.30,
    "busy": 0.20,
    "old_template": 0.10,
    "slash": 0.10,
    "exact": 0.30,
    "other_channels": 0.05,
    "closing": 0.30,
    "error_rate": 0.10,
}
FAULTS = (
    "http-500",
    "http-429",
    "redirect",
    "reset",
    "garbage",
    "html",
    "huge",
    "bom",
    "wrong-reference",
    "no-reference",
    "not-final",
    "nothing-said",
    "unknown-code",
    "99",
    "104",
    "105",
    "160",
)
"""All but those that end a run (101, 140, 143) or make it wait."""


@pytest.mark.usefixtures("settings")
@pytest.mark.timeout(3600)
def test_a_campaign_with_every_oddity_ends_with_every_field_as_esms_says_and_nothing_missing(
    tmp_path: Path, settings: Settings, database: Database
) -> None:
    print(f"CAMPAIGN_SEED={SEED}")
    options = Options(seed=SEED, faults=FAULTS, **ODDITIES)
    with Sandbox(options) as sandbox, serving(tmp_path / "server.log") as url:
        callback_url = f"{url}{settings.callback_url().removeprefix('http://127.0.0.1:8000')}"
        placed = sandbox.place(CALLS, callback_url=callback_url)
        registered = esms_calls("register", stdin=_as_csv(placed))
        assert registered.returncode == 0, registered.stderr
        sandbox.wait()
        assert not sandbox.callbacks.failures
        _reconcile_until_nothing_is_open(sandbox, database)

        known = _stored(database)
        assert known.keys() == sandbox.calls.keys()
        differing = {
            reference_id: differences
            for reference_id, truth in sandbox.calls.items()
            if (differences := _differences(known[reference_id], truth))
        }
        assert differing == {}
        assert _other_channels(database) == len(sandbox.other_channels)
        assert esms_calls("replay", "--check").returncode == 0
        status = json.loads(esms_calls("status", "--json", LOOKUP_SHARE_WARN="100%").stdout)
        assert (status["missing"], status["conflicts"], status["given_up"], status["rejected"]) == (0, 0, 0, 0)
        assert status["price_conflicts"] == sum(expected(call)["price_conflict"] for call in placed)
    assert {call.redialed for call in placed} == {None, "no answer first", "no answer last"}
    assert not {call.reference_id for call in placed} & set(sandbox.other_channels)
    _assert_every_oddity_was_played(sandbox)


def _reconcile_until_nothing_is_open(sandbox: Sandbox, database: Database) -> None:
    """Run after run, as if five minutes and more lay between them."""
    environment = {
        "ESMS_API_URL": sandbox.api_url,
        "ESMS_MESSAGE_API_URL": sandbox.message_api_url,
        "ESMS_API_KEY": "any",
        "ESMS_SECRET_KEY": "any",
        "RECONCILE_RATE": "1000",
        "RECONCILE_CONCURRENCY": "16",
    }
    for _ in range(MOST_RUNS):
        if not _make_due(database):
            return
        ran = esms_calls("reconcile", "--older-than", "0s", "--json", **environment)
        assert ran.returncode in {0, 1}, ran.stderr
        run = json.loads(ran.stdout)
        assert run["gave_up"] == 0
        assert datetime.fromisoformat(run["answered_at"]) >= datetime.fromisoformat(run["started_at"])
    raise AssertionError(f"{_make_due(database)} calls are still open after {MOST_RUNS} runs")


def _make_due(database: Database) -> int:
    """Let every open call be due; how many these are. The rate recovers, too."""
    open_calls = or_(IS_MISSING, calls.c.conflict)
    with database.transaction() as connection:
        return connection.execute(update(calls).where(open_calls).values(next_lookup_at=datetime.now(UTC))).rowcount


def _as_csv(placed: list[PlacedCall]) -> str:
    """Every other call is registered with its kind; of the others reports and look-ups show it."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["reference_id", "phone", "campaign", "placed_at", "kind"])
    for call in placed:
        kind = call.kind if call.number % 2 else ""
        rows.writerow([call.reference_id, call.phone, "june", call.placed_at.isoformat(), kind])
    return text.getvalue()


def _stored(database: Database) -> dict[str, Any]:
    with database.snapshot(limited=False) as connection:
        return {row["reference_id"]: row for row in connection.execute(select(calls)).mappings()}


def _differences(stored: Any, truth: PlacedCall) -> dict[str, tuple[Any, Any]]:
    wanted = expected(truth) | {"conflict": False, "campaign": "june", "esms_id": truth.reference_id}
    known = {name: stored[name] for name in wanted}
    if isinstance(known["price"], str):
        known["price"] = Decimal(known["price"])
    return {name: (known[name], value) for name, value in wanted.items() if known[name] != value}


def _other_channels(database: Database) -> int:
    """The messages that were kept apart; they are no calls."""
    other = func.coalesce(func.sum(rejected_callbacks.c.count), 0)
    query = select(other).where(rejected_callbacks.c.reason.startswith("other channel: TypeId "))
    with database.snapshot(limited=False) as connection:
        return int(connection.execute(query).scalar_one())


def _assert_every_oddity_was_played(sandbox: Sandbox) -> None:
    placed = list(sandbox.calls.values())
    for name in ("lost", "silent", "doubled", "late", "undetermined", "redialed", "repeat_price", "blocked", "busy"):
        assert any(getattr(call, name) for call in placed), name
    for name in ("old_template", "slash", "exact", "other_channel"):
        assert any(getattr(call, name) for call in placed), name
    assert {call.send_status for call in placed} == {4, 5, 6}
    assert {call.kind for call in placed} == {"voice", "otp"}
    assert any(call.reference_id != normalised(call.reference_id) for call in placed)
    assert {lookup.code for lookup in sandbox.lookups} >= {"100", "99"}
    assert {lookup.api for lookup in sandbox.lookups} == {"voice", "otp"}
