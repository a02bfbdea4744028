"""Schemathesis holds the description of the API against the running server."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import requests
from constants import API_TOKEN, CALLBACK_TOKEN
from running import serving
from samples import FAILED_CALL, VOICE_OTP

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
CURSOR = base64.urlsafe_b64encode(b"2099-06-01T03:00:00.000000Z a").decode()
# A cursor is of the server's making: no other text can be read.
CONFIGURATION = f"""
dictionaries.cursors.values = ["{CURSOR}"]
parameters.cursor = {{ dictionary = "cursors", probability = 1.0 }}
generation.deterministic = true
generation.database = "none"
"""


def test_the_server_answers_everything_as_described(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    environment = {
        "INSTANCE_DIR": str(tmp_path / "instance"),
        "DATABASE_URL": f"sqlite:///{tmp_path}/calls.db",
        "API_TOKEN": API_TOKEN,
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
    }
    with serving(tmp_path / "log", "--workers", "1", **environment) as url:
        for said in (FAILED_CALL.text, f"{FAILED_CALL.text}&CallDuration=later", VOICE_OTP.text):
            assert requests.get(f"{url}/esms/callback/{CALLBACK_TOKEN}?{said}", timeout=5).status_code == 200
        held = subprocess.run(
            [
                *(SCHEMATHESIS, "--config-file", tmp_path / "schemathesis.toml", "run", f"{url}/api/openapi.json"),
                *("--header", f"Authorization: Bearer {API_TOKEN}", "--checks", "all", "--continue-on-failure"),
                *(
                    "--phases",
                    "examples,coverage,fuzzing",
                    "--max-examples",
                    "12",
                    "--no-color",
                    "--request-timeout",
                    "60",
                ),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert held.returncode == 0, held.stdout
    assert "Tested: 3" in held.stdout
    assert "this is a bug" not in (tmp_path / "log").read_text()
