"""The proxies of deploy/ in front of a real server: what they hold off, what they hand on, what they log."""

from __future__ import annotations

import http.client
import itertools
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from caddy import start_caddy
from constants import API_TOKEN, CALLBACK_TOKEN, SOAK
from doctoring import examined
from fuzz import ALLOWED, Answers
from peers import new_authority
from running import free_port, serving, settings_in
from sqlalchemy import select

from webapp.storage.database import Database
from webapp.storage.models import rejected_callbacks, status_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = "calls.example.vn"
PATH = f"/esms/callback/{CALLBACK_TOKEN}"
WRONG = "/esms/callback/a-wrong-token-of-the-tests"
LIMIT = 10
"""Times the idle p99."""
ESMS = "127.0.0.2"
STRANGER = "127.0.0.3"


class Behind(NamedTuple):
    """A server, and a proxy in front of it."""

    proxy: str
    port: int
    context: ssl.SSLContext
    folder: Path
    database: Database

    def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        source: str = ESMS,
    ) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own, from an address of this machine."""
        with self.connect(source) as client:
            line = http.client.HTTPConnection(NAME)
            line.sock = client
            line.request(method, target, body, headers or {})
            answer = line.getresponse()
            return answer.status, answer.read()

    def connect(self, source: str) -> ssl.SSLSocket:
        """A TLS connection to the proxy."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(source, 0))
        return self.context.wrap_socket(plain, server_hostname=NAME)

    def logged(self) -> str:
        """All that server and proxy wrote into files, but for the CallbackUrl that `serve` prints at its start."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix in {".log", ""}]
        lines = [line for path in files for line in path.read_text(errors="replace").splitlines()]
        return "\n".join(line for line in lines if not line.startswith("  http://"))


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None and "CI" not in os.environ:
        pytest.skip(f"{name} is not there (Debian: apt-get install {name})")
    return name


class Server(NamedTuple):
    """What both proxies stand before, one after the other."""

    address: str
    folder: Path
    database: Database


def server_settings(folder: Path) -> dict[str, str]:
    """The settings of the server in the folder."""
    return settings_in(folder, TRUSTED_PROXIES="1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("proxies")
    settings = server_settings(folder)
    with ExitStack() as stack:
        url = stack.enter_context(serving(folder / "server.log", "--workers", "1", **settings))
        database = Database(settings["DATABASE_URL"])
        stack.callback(database.close)
        yield Server(url.removeprefix("http://"), folder, database)


@pytest.fixture(scope="module")
def behind(proxy: str, server: Server) -> Iterator[Behind]:
    """The proxy with its file of deploy/: of it only ports, folders, the certificate and the inner networks differ."""
    folder = server.folder / proxy
    folder.mkdir()
    with running(proxy, folder, server.address) as (port, context):
        yield Behind(proxy, port, context, server.folder, server.database)


@contextmanager
def running(proxy: str, folder: Path, server: str, *changes: tuple[str, str]) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The proxy in front of ``server``, until the end of the block: its port, and what its clients trust."""
    port = free_port()
    authority = new_authority()
    certificate = authority.issue_cert(NAME)
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    for place, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "tls.pem", append=place > 0)
    start = {"nginx": nginx, "caddy": caddy}[proxy]
    program = start(folder, port, server, changes)
    try:
        wait_until_open(port, program)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        yield port, context
    finally:
        program.terminate()
        program.wait(10)


def nginx(folder: Path, port: int, server: str, changes: tuple[tuple[str, str], ...]) -> subprocess.Popen[bytes]:
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/esms-calls", str(folder / "tls")),
        ("/var/log/nginx", str(folder)),
        ("http://127.0.0.1:8000", f"http://{server}"),
        ("allow 127.0.0.0/8", "allow 127.0.0.1"),
        *changes,
    )
    (folder / "site.conf").write_text(site)
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "main.conf").write_text(
        f"daemon off; pid {folder / 'nginx.pid'}; worker_processes 1; error_log {folder / 'error.log'};"
        f"events {{ worker_connections 1024; }} http {{ {temporary} include {folder / 'site.conf'}; }}"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "main.conf"), "-e", str(folder / "error.log")]
    return subprocess.Popen(command)


def caddy(folder: Path, port: int, server: str, changes: tuple[tuple[str, str], ...]) -> subprocess.Popen[bytes]:
    site = replaced(
        (DEPLOY / "Caddyfile").read_text(),
        ("{\n\t# Caddy logs", "{\n\tadmin off\n\tauto_https disable_redirects\n\t# Caddy logs"),
        (f"{NAME} {{", f"{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {folder / 'tls.pem'} {folder / 'tls.key'}"),
        ("127.0.0.1:8000", server),
        ("remote_ip 127.0.0.0/8", "remote_ip 127.0.0.1"),
        *changes,
    )
    return start_caddy(folder, site)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """The text with all changes; each must change something."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def wait_until_open(port: int, program: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        assert program.poll() is None, f"the proxy ended with {program.returncode}"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.03)
    raise AssertionError("the proxy does not listen")


# What is handed on, and what is not


def test_the_address_stored_is_the_callers_whatever_headers_it_sends(behind: Behind) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.example", "Forwarded": "for=203.0.113.9"}
    reference_id = f"forged-{behind.proxy}"
    assert behind.ask(f"{PATH}?ReferenceId={reference_id}&SendStatus=5", headers=forged)[0] == 200

    with behind.database.snapshot() as connection:
        query = select(status_reports.c.remote_addr).where(status_reports.c.reference_id == reference_id)
        assert connection.execute(query).scalars().all() == [ESMS]


def test_doctor_recognises_its_server_and_the_proxy_before_it(
    behind: Behind, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = map(ssl.DER_cert_to_PEM_cert, behind.context.get_ca_certs(binary_form=True))
    (fresh / "ca.pem").write_text("".join(authorities))
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest: resolve("127.0.0.1" if host == NAME else host, *rest)
    )
    for name, value in (server_settings(behind.folder) | {"ESMS_CA_BUNDLE": str(fresh / "ca.pem")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PUBLIC_URL", f"https://{NAME}:{behind.port}")
    right = examined()
    monkeypatch.setenv("TRUSTED_PROXIES", "0")
    wrong = examined()

    assert right.checks["public URL"] == ("ok", f"https://{NAME}:{behind.port} is this server, by the CallbackUrl -> ")
    assert right.checks["proxies"].result == "ok"
    assert "TRUSTED_PROXIES=1, and the setting here is 0 -> restart the server" in wrong.checks["proxies"].words


def test_the_request_id_is_the_proxys_and_not_the_clients(behind: Behind) -> None:
    log = behind.folder / "server.log"
    before = len(log.read_text())
    behind.ask(f"{PATH}?ReferenceId=numbered&SendStatus=5", headers={"X-Request-ID": "of-the-client"})
    for _ in range(200):
        if line := log.read_text()[before:].strip():
            break
        time.sleep(0.02)
    assert "of-the-client" not in line
    assert re.search(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$", line)


def test_posts_are_handed_on(behind: Behind) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert behind.ask(PATH, method="POST", body=b"ReferenceId=posted&SendStatus=5", headers=form)[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/api/calls",
        "/metrics",
        "//metrics",
        "/readyz",
        "/esms/../metrics",
        "/esms/callback/../../metrics",
        "/esms/callback/%2e%2e/%2e%2e/metrics",
        "/esms/callback/..%2f..%2fmetrics",
    ],
)
def test_strangers_get_nothing_but_the_callback_url(behind: Behind, target: str) -> None:
    status, body = behind.ask(target, headers={"Authorization": f"Bearer {API_TOKEN}"}, source=STRANGER)
    assert status in {400, 403, 404}
    assert b"esms_calls" not in body


def test_the_inner_networks_reach_the_rest(behind: Behind) -> None:
    assert behind.ask("/readyz", source="127.0.0.1")[0] == 200
    key = {"Authorization": f"Bearer {API_TOKEN}"}
    assert behind.ask("/api/calls", headers=key, source="127.0.0.1")[0] == 200


def test_no_fuzzed_request_does_harm(behind: Behind) -> None:
    """Each from an address of its own, because nginx limits the requests of one address."""
    numbers = itertools.count()

    def connect() -> socket.socket:
        number = next(numbers)
        return behind.connect(f"127.9.{number // 250 % 250}.{number % 250 + 1}")

    answers = Answers(connect, half_close=False)
    answers.run()
    print(f"{behind.proxy}: {answers}")
    assert not answers.wrong, answers.wrong[:3]
    assert set(answers.statuses) <= ALLOWED | {403, 502}, f"{answers}"
    assert {200, 400, 404} <= set(answers.statuses), f"{answers}"
    assert behind.ask(f"{PATH}?ReferenceId=honest&SendStatus=5")[0] == 200


# Limits


def test_a_body_a_little_too_large_is_kept_and_a_huge_one_is_stopped(behind: Behind) -> None:
    assert behind.ask(PATH, method="POST", body=b"x" * 100_000)[0] == 400
    with suppress(OSError):  # the connection may be closed before all is sent
        assert behind.ask(PATH, method="POST", body=b"x" * 1_000_000)[0] in {400, 413, 502}
    with behind.database.snapshot() as connection:
        kept = connection.execute(select(rejected_callbacks.c.payload)).scalars()
        # Random bytes of other tests are kept escaped, and longer.
        sizes = [len(payload) for payload in kept if "x" * 1000 in payload]
    assert sizes
    assert max(sizes) <= 70_000


def drip_head(client: ssl.SSLSocket, stop: threading.Event) -> None:
    client.sendall(f"GET {PATH}?ReferenceId=slow HTTP/1.1\r\nHost: {NAME}\r\n".encode())
    drip(client, b"X-A: b\r\n", stop)


def drip_body(client: ssl.SSLSocket, stop: threading.Event) -> None:
    client.sendall(f"POST {PATH} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 60000\r\n\r\n".encode())
    drip(client, b"x", stop)


def drip(client: ssl.SSLSocket, part: bytes, stop: threading.Event) -> None:
    """A little at a time, until the proxy ends the connection."""
    while not stop.wait(0.3):
        client.sendall(part)


def flood(client: ssl.SSLSocket, stop: threading.Event) -> None:
    """As fast as the proxy takes them."""
    request = f"GET {WRONG} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    while not stop.is_set():
        client.sendall(request)
        if not client.recv(4096):
            return


ABUSES: dict[str, tuple[Callable[[ssl.SSLSocket, threading.Event], None], int]] = {
    "slow heads": (drip_head, 200 if SOAK else 24),
    "slow bodies": (drip_body, 200 if SOAK else 24),
    "a flood of wrong tokens": (flood, 3),
}


@pytest.mark.parametrize("abuse", ABUSES)
def test_honest_callbacks_stay_under_ten_times_their_idle_p99(behind: Behind, abuse: str) -> None:
    """Three tries, because the machine is busy with other tests, too; `make bench-abuse` has no such indulgence."""
    act, connections = ABUSES[abuse]
    ratios = []
    for _ in range(3):
        idle = honest(behind)
        with abused(behind, act, connections):
            beside = honest(behind)
        ratios.append(beside / idle)
        print(f"{behind.proxy}, beside {abuse}: {beside * 1000:.1f} ms, idle {idle * 1000:.1f} ms")
        if ratios[-1] < LIMIT:
            return
    assert min(ratios) < LIMIT


@contextmanager
def abused(behind: Behind, act: Callable[[ssl.SSLSocket, threading.Event], None], connections: int) -> Iterator[None]:
    """``connections`` of a stranger that do nothing but abuse, until the end of the block."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with suppress(OSError), behind.connect(STRANGER) as client:
                act(client, stop)

    with ThreadPoolExecutor(connections) as pool:
        for _ in range(connections):
            pool.submit(run)
        try:
            time.sleep(0.2)
            yield
        finally:
            stop.set()


def honest(behind: Behind) -> float:
    """The p99 of some callbacks, in seconds; every one is answered 200."""
    took = []
    for _ in range(500 if SOAK else 30):
        began = time.monotonic()
        assert behind.ask(f"{PATH}?ReferenceId=honest&SendStatus=5")[0] == 200
        took.append(time.monotonic() - began)
    return sorted(took)[int(len(took) * 0.99)]


SLOW_HEAD = f"GET {PATH} HTTP/1.1\r\nHost: {NAME}\r\n".encode()
SLOW_BODY = f"POST {PATH} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 100\r\n\r\nx".encode()


def test_slow_clients_are_ended(tmp_path: Path, behind: Behind) -> None:
    """With shorter times than in the files. Behind the proxy is a listener that waits for a connection."""
    shorter = {
        "nginx": (("header_timeout 5s", "header_timeout 300ms"), ("body_timeout 5s", "body_timeout 300ms")),
        "caddy": (("read_header 5s", "read_header 300ms"), ("read_body 1m", "read_body 700ms")),
    }[behind.proxy]
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(0.1 if behind.proxy == "nginx" else 10)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        port, context = stack.enter_context(running(behind.proxy, tmp_path, address, *shorter))
        there = behind._replace(port=port, context=context)
        head, body = (stack.enter_context(there.connect(ESMS)) for _ in "ab")
        head.sendall(SLOW_HEAD)
        body.sendall(SLOW_BODY)
        assert head.recv(1000)[:12] in {b"", b"HTTP/1.1 408"}
        if behind.proxy == "caddy":  # it leaves the body to the server, whose answer it hands on in the end
            with listener.accept()[0] as handed_on:
                handed_on.recv(1000)
                handed_on.sendall(b"HTTP/1.1 400 Too Slow\r\nContent-Length: 0\r\n\r\n")
                assert body.recv(1000).startswith(b"HTTP/1.1 400 ")
            return
        assert body.recv(1000)[:12] in {b"", b"HTTP/1.1 408"}
        with pytest.raises(TimeoutError):
            listener.accept()


def test_nginx_limits_requests_by_address(tmp_path: Path, behind: Behind) -> None:
    """With lower figures than in the file, so that a few requests reach them."""
    if behind.proxy != "nginx":
        pytest.skip("Caddy as it comes has no rate limit")
    closed = f"127.0.0.1:{free_port()}"
    slower = ("rate=300r/s", "rate=1r/s"), ("burst=900", "burst=2 nodelay")
    with running("nginx", tmp_path, closed, *slower) as (port, context):
        limited = behind._replace(port=port, context=context, folder=tmp_path)
        flooded = [limited.ask(f"{PATH}?n={number}", source=STRANGER)[0] for number in range(6)]
        other = limited.ask(PATH)[0]
    assert flooded[0] == 502  # nothing listens behind it
    assert flooded[-1] == 429
    assert other == 502
    assert CALLBACK_TOKEN not in limited.logged()


# Logs


def test_the_token_is_in_no_log_also_when_the_server_is_away(behind: Behind, tmp_path: Path) -> None:
    number = "0901888484"
    targets = (f"{PATH}?phonenumber={number}", f"//esms/callback//{CALLBACK_TOKEN}", f"/typo/{CALLBACK_TOKEN}")
    with running(behind.proxy, tmp_path, f"127.0.0.1:{free_port()}") as (port, context):
        broken = behind._replace(port=port, context=context, folder=tmp_path)
        for where in (behind, broken):
            for target in targets:
                where.ask(target)
                where.ask(target, method="POST", body=b"x" * 200_000)
        status, _ = broken.ask(f"{PATH}?phonenumber={number}")
    assert status == 502
    for where in (behind, broken):
        logged = where.logged()
        assert logged
        assert [secret for secret in (CALLBACK_TOKEN, number) if secret in logged] == []
