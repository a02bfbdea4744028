"""The main job, end to end over real HTTP: a campaign with losses, and after one reconcile nothing is missing."""

from __future__ import annotations

import csv
import io
import json
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from running import esms_calls, serving

from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.esms.sandbox.calls import PlacedCall
    from webapp.support.settings import Settings

CALLS = int(os.environ.get("CAMPAIGN_CALLS", "500"))


@pytest.mark.usefixtures("settings")
def test_after_one_reconcile_none_is_missing_and_every_field_equals_what_esms_says(
    tmp_path: Path, settings: Settings
) -> None:
    options = Options(seed=7, lost=0.10, doubled=0.05, late=0.05)
    with Sandbox(options) as sandbox, serving(tmp_path / "server.log") as url:
        callback_url = f"{url}{settings.callback_url().removeprefix('http://127.0.0.1:8000')}"
        placed = sandbox.place(CALLS, callback_url=callback_url)
        registered = esms_calls("register", stdin=_as_csv(placed))
        assert registered.returncode == 0, registered.stderr
        sandbox.wait()
        environment = {
            "ESMS_API_URL": sandbox.api_url,
            "ESMS_API_KEY": "any",
            "ESMS_SECRET_KEY": "any",
            "RECONCILE_RATE": "500",
            "RECONCILE_CONCURRENCY": "16",
        }
        reconciled = esms_calls("reconcile", "--older-than", "0s", "--json", **environment)
        assert reconciled.returncode == 0, reconciled.stderr
        assert json.loads(reconciled.stdout)["settled"] == sum(call.lost for call in placed)

        lost = "of the calls of this campaign, which look-ups settled, there are enough to ask for a person"
        assert esms_calls("status").returncode == 1, lost
        status = esms_calls("status", "--json", LOOKUP_SHARE_WARN="100%")
        assert status.returncode == 0, status.stdout
        assert json.loads(status.stdout)["missing"] == 0
        exported = esms_calls("export", "--format", "jsonl")
        stored = {call["reference_id"]: call for line in exported.stdout.splitlines() if (call := json.loads(line))}
        assert stored.keys() == sandbox.calls.keys()
        for reference_id, truth in sandbox.calls.items():
            _assert_equals(stored[reference_id], truth)
        assert esms_calls("replay", "--check").returncode == 0


def _as_csv(placed: list[PlacedCall]) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["reference_id", "phone", "campaign", "placed_at"])
    rows.writerows([call.reference_id, call.phone, "june", call.placed_at.isoformat()] for call in placed)
    return text.getvalue()


def _assert_equals(stored: dict[str, Any], truth: PlacedCall) -> None:
    # Of a failed call the callback leaves CallStatus empty; GetSendStatus says NOANSWERED.
    assert stored["call_status"] == (truth.lookup_status if truth.lost else truth.call_status)
    for name in ("call_duration", "ivr", "send_status", "sent_result", "phone"):
        assert stored[name] == getattr(truth, name)
    assert stored["settled_by"] == ("lookup" if truth.lost else "callback")
    assert not stored["conflict"]
    if not truth.lost:
        # Only callbacks say these.
        assert Decimal(stored["price"]) == truth.price
        assert stored["cid"] == truth.cid
