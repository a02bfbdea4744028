"""compose.yaml on this machine: each command runs, and the services find and survive each other."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from composing import ROOT, Composed, described, wanted_variables
from constants import API_TOKEN, CALLBACK_TOKEN
from peers import new_authority
from running import free_port
from servers import open_folder
from until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

SITE = "localhost"
PATH = f"/esms/callback/{CALLBACK_TOKEN}"


class Services(Composed):
    """All of them, with a certificate of the test's own, and an eSMS that is not there."""

    def __init__(self, folder: str) -> None:
        """Start nothing yet."""
        path = Path(folder)
        authority = new_authority()
        authority.cert_pem.write_to_path(path / "ca.pem")
        certificate = authority.issue_cert(SITE)
        certificate.private_key_and_cert_chain_pem.write_to_path(path / "tls.pem")
        self.authority = str(path / "ca.pem")
        self.https, self.inner, self.health, self.watcher = (free_port() for _ in range(4))
        tls = f"{SITE}:{self.https} {{\n\ttls {path}/tls.pem {path}/tls.pem"
        variables = dict.fromkeys(wanted_variables(), "a-value-of-the-tests")
        variables |= {"CALLBACK_TOKEN": CALLBACK_TOKEN, "API_TOKEN": API_TOKEN, "SITE": SITE}
        super().__init__(
            path,
            variables,
            caddy={
                "{$SITE} {": tls,
                ":8080 {": f"http://127.0.0.1:{self.inner} {{",
                "{\n\t# Caddy logs": "{\n\tadmin off\n\tauto_https disable_redirects\n\t# Caddy logs",
            },
            prometheus={"/etc/prometheus": folder, "=/prometheus": f"={folder}/series", "15s": "1s"},
            reconcile={"8001": str(self.health)},
        )

    def callback(self, reference_id: str) -> int:
        """Send a report through Caddy, on a connection of its own."""
        url = f"https://{SITE}:{self.https}{PATH}?ReferenceId={reference_id}&SendStatus=5&CallStatus=ANSWERED"
        return requests.get(url, verify=self.authority, timeout=20).status_code


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    for program in ("caddy", "prometheus", "pg_isready"):
        if shutil.which(program) is None and "CI" not in os.environ:
            pytest.skip(f"{program} is not there (Debian: caddy, prometheus, postgresql-client)")
    with open_folder() as folder:
        services = Services(str(folder))
        try:
            services.start_postgres()
            assert services.run("migrate").returncode == 0
            for name in ("receiver-1", "receiver-2", "reconcile", "caddy"):
                services.start(name)
            services.start("prometheus", f"--web.listen-address=127.0.0.1:{services.watcher}")
            for name in ("receiver-1", "receiver-2"):
                wait_until_answered(f"{services.url(name)}/healthz")
            wait_until_answered(f"http://127.0.0.1:{services.inner}/healthz")
            yield services
        finally:
            services.clean_up()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def wait_until_answered(url: str) -> None:
    until(lambda: answers(url), 30, f"{url} answers", pause=0.1)


def test_health_checks_succeed(services: Services) -> None:
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(services.ports["postgres"])}
    until(lambda: services.is_healthy("postgres", **where), 20, "postgres is healthy", pause=0.2)
    until(lambda: services.is_healthy("reconcile"), 20, "reconcile is healthy", pause=0.5)


def test_callbacks_come_in_while_one_receiver_is_gone(services: Services) -> None:
    statuses = [services.callback(f"before-{number}") for number in range(4)]
    services.kill("receiver-1")
    statuses += [services.callback(f"alone-{number}") for number in range(8)]
    services.start("receiver-1")
    wait_until_answered(f"{services.url('receiver-1')}/healthz")
    assert statuses == [200] * 12

    bearer = {"Authorization": f"Bearer {API_TOKEN}"}
    page = requests.get(f"http://127.0.0.1:{services.inner}/api/calls", headers=bearer, timeout=20).json()
    assert len(page["calls"]) == 12


def test_strangers_get_the_callback_url_alone(services: Services) -> None:
    for path in ("/", "/calls", "/metrics", "/readyz", "/api/calls"):
        answer = requests.get(f"https://{SITE}:{services.https}{path}", verify=services.authority, timeout=20)
        assert answer.status_code == 403, path
    assert CALLBACK_TOKEN not in services.log("caddy")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://{SITE}:{services.https}/", timeout=20)


def test_prometheus_watches_both_receivers_and_knows_the_alerts(services: Services) -> None:
    api = f"http://127.0.0.1:{services.watcher}/api/v1"

    def healths() -> list[str]:
        targets = requests.get(f"{api}/targets", timeout=5).json()["data"]["activeTargets"]
        return [target["health"] for target in targets]

    until(lambda: answers(f"{api}/targets") and healths() == ["up", "up"], 30, "both are up")
    groups = requests.get(f"{api}/rules", timeout=5).json()["data"]["groups"]
    named = set(re.findall(r"^ +- alert: (\w+)", (ROOT / "deploy" / "alerts.yaml").read_text(), re.MULTILINE))
    assert {rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"} == named


def test_each_service_ends_within_the_grace_that_it_is_given(services: Services) -> None:
    codes = {name: services.stop(name) for name in ("caddy", "receiver-1", "receiver-2", "reconcile", "prometheus")}
    assert codes == dict.fromkeys(codes, 0)


def test_nothing_may_do_more_than_it_must() -> None:
    services = described()["services"]
    ours = [service for service in services.values() if service.get("image") == "esms-calls"]
    assert len(ours) == 4
    for service in ours:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "ports" not in service
    spools = [service["volumes"] for name, service in services.items() if name.startswith("receiver")]
    assert spools[0] != spools[1]


def test_the_documents_name_each_variable_of_env() -> None:
    block = re.search(r"```sh\n(POSTGRES_PASSWORD=.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
    assert block
    assert set(re.findall(r"^(\w+)=", block[1], re.MULTILINE)) == wanted_variables()
