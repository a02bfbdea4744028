"""The files of deploy/ are taken by systemd, cron and Kubernetes; operations.md knows every code and every line."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from running import COMMAND

from webapp.callbacks.spool import Depth
from webapp.cli import status_text
from webapp.cli.status_needs import Moment
from webapp.storage.claims import Due

if TYPE_CHECKING:
    from webapp.storage.reader import Reader

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
INSTALLED = "/opt/esms-calls/bin/esms-calls"
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def verify(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not there (Debian: apt-get install systemd cron)")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, check=False)


def here(folder: Path, *, spoilt: tuple[str, str] = ("", "")) -> list[str]:
    """The units as if the program were installed where they say."""
    paths = [path for path in sorted(DEPLOY.iterdir()) if path.suffix in {".service", ".timer"}]
    for path in paths:
        (folder / path.name).write_text(path.read_text().replace(INSTALLED, str(COMMAND)).replace(*spoilt))
    return [str(folder / path.name) for path in paths]


def test_systemd_takes_every_unit(tmp_path: Path) -> None:
    units = here(tmp_path)
    done = verify("systemd-analyze", "verify", *units)
    assert (done.returncode, done.stderr, len(units)) == (0, "", 4)


@pytest.mark.parametrize("spoilt", [("OnCalendar=*:0/5", "OnCalendar=often"), ("ExecStart=/", "ExecStart=/no/such/")])
def test_systemd_would_not_take_a_spoilt_one(tmp_path: Path, spoilt: tuple[str, str]) -> None:
    done = verify("systemd-analyze", "verify", *here(tmp_path, spoilt=spoilt))
    assert done.returncode or done.stderr


def test_cron_takes_the_crontab_and_would_not_take_a_spoilt_one(tmp_path: Path) -> None:
    assert verify("crontab", "-n", str(DEPLOY / "crontab")).returncode == 0
    spoilt = tmp_path / "crontab"
    spoilt.write_text((DEPLOY / "crontab").read_text().replace("*/5 * * * *", "*/5 * * * whenever"))
    assert verify("crontab", "-n", str(spoilt)).returncode != 0


def test_the_cronjob_is_as_kubernetes_wants_it() -> None:
    job: dict[str, Any] = yaml.safe_load((DEPLOY / "cronjob.yaml").read_text())
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)

    job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restart"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_operations_knows_every_line_of_status(reader: Reader) -> None:
    now = datetime.now(UTC)
    spool = Depth(reports=1, oldest_at=now - timedelta(hours=1), size=1)
    found = reader.status(Due(placed_until=now, due_until=now))
    moment = Moment(now=now, zone=ZoneInfo("UTC"), lease=timedelta(minutes=1), lookup_share_warn=Decimal(1))
    lines = [name.strip() for _, rows in status_text.groups(found, spool, moment) for name, _ in rows]
    assert [line for line in lines if f"`{line}`" not in OPERATIONS] == []


def test_operations_knows_every_exit_code() -> None:
    assert [code for code in range(5) if f"\n| {code} | " not in OPERATIONS] == []
