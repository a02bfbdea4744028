"""The files of deploy/ are taken by systemd, cron and Kubernetes; operations.md knows every code and every line."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from running import COMMAND

from webapp.callbacks.spool import Depth
from webapp.cli import status_text
from webapp.cli.status_needs import StatusMoment
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
    paths = [path for path in sorted(DEPLOY.iterdir()) if path.suffix in {".service", ".socket", ".timer"}]
    for path in paths:
        (folder / path.name).write_text(path.read_text().replace(INSTALLED, str(COMMAND)).replace(*spoilt))
    return [str(folder / path.name) for path in paths]


def test_systemd_takes_every_unit(tmp_path: Path) -> None:
    units = here(tmp_path)
    done = verify("systemd-analyze", "verify", *units)
    assert (done.returncode, done.stderr, len(units)) == (0, "", 5)


@pytest.mark.parametrize(
    "spoilt",
    [
        ("OnCalendar=*:0/5", "OnCalendar=often"),
        ("ExecStart=/", "ExecStart=/no/such/"),
        ("=127.0.0.1:8000\n", "=localhost:\n"),
    ],
)
def test_systemd_would_not_take_a_spoilt_one(tmp_path: Path, spoilt: tuple[str, str]) -> None:
    done = verify("systemd-analyze", "verify", *here(tmp_path, spoilt=spoilt))
    assert done.returncode or done.stderr


def test_cron_takes_the_crontab_and_would_not_take_a_spoilt_one(tmp_path: Path) -> None:
    assert verify("crontab", "-n", str(DEPLOY / "crontab")).returncode == 0
    spoilt = tmp_path / "crontab"
    spoilt.write_text((DEPLOY / "crontab").read_text().replace("*/5 * * * *", "*/5 * * * whenever"))
    assert verify("crontab", "-n", str(spoilt)).returncode != 0


def test_no_unit_could_do_much_if_it_were_broken_into(tmp_path: Path) -> None:
    """A rate is from 0 (nothing) to 10; the exit code tells of more than 2.0."""
    services = [path for path in here(tmp_path) if path.endswith(".service")]
    rate = ("security", "--offline=true", "--threshold=20", "--no-pager")
    assert [verify("systemd-analyze", *rate, path).returncode for path in services] == [0, 0, 0]

    loose = Path(services[0])
    loose.write_text(loose.read_text().replace("SystemCallFilter=", "#").replace("PrivateUsers=", "#"))
    assert verify("systemd-analyze", *rate, str(loose)).returncode != 0


def manifests() -> dict[str, dict[str, Any]]:
    """All that Kubernetes is given, by kind."""
    texts = [(DEPLOY / name).read_text() for name in ("kubernetes.yaml", "cronjob.yaml")]
    return {one["kind"]: one for text in texts for one in yaml.safe_load_all(text)}


def pods() -> list[dict[str, Any]]:
    """The specifications of the server's and reconcile's pods."""
    found = manifests()
    job = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return [found["Deployment"]["spec"]["template"]["spec"], job]


def test_every_manifest_is_as_kubernetes_wants_it() -> None:
    import kubernetes_validate  # type: ignore[import-untyped]

    version = kubernetes_validate.latest_version()
    found = manifests()
    assert set(found) == {"Deployment", "Service", "PodDisruptionBudget", "PersistentVolumeClaim", "CronJob"}
    for manifest in found.values():
        kubernetes_validate.validate(manifest, version, strict=True)
        manifest["spec"]["restart"] = "Never"
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_pods_have_no_privileges() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}  # noqa: S108


def test_service_budget_and_probes_fit_the_deployment() -> None:
    """No probe asks for the database: a server without one still takes callbacks, into its spool."""
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (container,) = pods()[0]["containers"]
    assert {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")} == {"/healthz"}
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == ports


def test_operations_knows_every_line_of_status(reader: Reader) -> None:
    now = datetime.now(UTC)
    spool = Depth(reports=1, oldest_at=now - timedelta(hours=1), size=1)
    found = reader.status(Due(placed_until=now, due_until=now))
    moment = StatusMoment(
        now=now, zone=ZoneInfo("UTC"), lease=timedelta(minutes=1), lookup_share_warn=Decimal(1), spool_limit=9
    )
    lines = [name.strip() for _, rows in status_text.status_groups(found, spool, moment) for name, _ in rows]
    assert [line for line in lines if f"`{line}`" not in OPERATIONS] == []


def test_operations_knows_every_exit_code() -> None:
    assert [code for code in range(5) if f"\n| {code} | " not in OPERATIONS] == []
