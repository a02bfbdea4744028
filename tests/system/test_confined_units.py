"""The program works with what its systemd units leave it: their system calls, and no memory that is written and run."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import confined
import pytest
import requests
from constants import API_KEY, API_TOKEN, CALLBACK_TOKEN, SECRET_KEY
from running import COMMAND, free_port, wait_until_healthy

if TYPE_CHECKING:
    from webapp.storage.database import Database

ROOT = Path(__file__).parents[2]
ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def tools() -> None:
    absent = shutil.which("systemd-analyze") is None or ctypes.util.find_library("seccomp") is None
    if absent and "CI" not in os.environ:
        pytest.skip("systemd-analyze or libseccomp is not there (Debian: apt-get install systemd)")
    if [int(part) for part in os.uname().release.split(".")[:2]] < [6, 3]:
        pytest.skip("Linux can refuse memory that is written and executed only from 6.3 on")


def within(unit: str, *command: str) -> list[str]:
    return [sys.executable, str(confined.__file__), str(ROOT / "deploy" / f"{unit}.service"), *command]


@ON_POSTGRESQL
def test_server_reconcile_and_export_work_with_what_the_units_leave_them(
    database: Database, empty_database_url: str, tmp_path: Path
) -> None:
    assert database
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {
        "DATABASE_URL": empty_database_url,
        "INSTANCE_DIR": str(tmp_path),
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
        "API_TOKEN": API_TOKEN,
        "ESMS_API_KEY": API_KEY,
        "ESMS_SECRET_KEY": SECRET_KEY,
    }
    serve = within("esms-calls", COMMAND, "serve", "--bind", address, "--workers", "1")
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(serve, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            wait_until_healthy(f"http://{address}", server)
            url = f"http://{address}/esms/callback/{CALLBACK_TOKEN}?ReferenceId=a&SendStatus=5&CallStatus=ANSWERED"
            assert requests.get(url, timeout=20).json() == {"result": "settled"}
            key = {"Authorization": f"Bearer {API_TOKEN}"}
            assert requests.get(f"http://{address}/api/calls", headers=key, timeout=20).json()["calls"]
            commands = [
                within("esms-calls", COMMAND, "export", "--format", "parquet", "--output", str(tmp_path / "a.parquet")),
                within("esms-calls-reconcile", COMMAND, "reconcile"),
            ]
            for command in commands:
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert (tmp_path / "a.parquet").stat().st_mode & 0o777 == 0o600


def test_what_a_unit_takes_away_is_not_there() -> None:
    """Else the test above could not fail."""
    tries = (
        "import os, mmap, sys\n"
        "for take in (lambda: os.chown('/tmp', 0, 0), lambda: os.chroot('/'), lambda: os.setpriority(0, 0, 0),\n"
        "             lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)):\n"
        "    try: take()\n"
        "    except PermissionError: print('refused')\n"
    )
    for unit in ("esms-calls", "esms-calls-reconcile", "esms-calls-watch"):
        done = subprocess.run(
            within(unit, sys.executable, "-S", "-c", tries), capture_output=True, text=True, check=True
        )
        assert done.stdout == "refused\n" * 4
