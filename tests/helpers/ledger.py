"""A ledger: what a receiver answered to clients that send all the time, against what its database holds in the end.

Every request carries a marker of its own, so that each report is distinguishable from all others.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import urlencode

import requests
from constants import SOAK
from running import Program, free_port, metrics_folder, run
from sqlalchemy import text
from until import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from versions import Installed

    from webapp.storage.database import Database

TOKEN = "callback-token-of-the-ledger"
API_TOKEN = "api-token-of-the-ledger"
SEED = int(os.environ.get("DURABILITY_SEED") or int.from_bytes(os.urandom(4)))
"""What decides every random moment and every request; printed by each test, and given to repeat it."""

MARKER = re.compile(r"[0-9]+-[0-9]+-[0-9a-f]{8}")
ANSWER_SECONDS = 5.0
MARGIN_SECONDS = 3.0
"""What a machine that does much else at once may add to any time."""
RECOVERY_SECONDS = 30.0
"""So soon after its database is back, a receiver has drained its spool and gives effects again."""
_PAUSE_SECONDS = 0.02 if SOAK else 0.1
_NUMBERS = count()
"""Of clients; no two have the same, so that a marker tells one request from all others."""
_AT_MOST_EACH = 20_000
_SHAPES: tuple[dict[str, str], ...] = (
    {"SendStatus": "7"},
    {"SendStatus": "5", "CallStatus": "ANSWERED", "CallDuration": "13", "Ivr": "1", "Price": "450.0000"},
    {"SendStatus": "5", "CallStatus": "BUSY", "SentResult": "1", "CID": "02871002454"},
    {"CallStatus": "NO ANSWER"},
    {"SendStatus": "4", "Ivr": "*"},
)


def lasting(quick: float, soak: float) -> float:
    """How many seconds something takes, in the quick and in the long form."""
    return soak * SOAK if SOAK else quick


class Address(Protocol):
    """Where clients send callbacks: a receiver, or what stands before some."""

    @property
    def port(self) -> int:
        """On 127.0.0.1."""

    @property
    def url(self) -> str:
        """The same with ``http://``."""


class Receiver:
    """``esms-calls serve`` in a process group of its own, on a port that it keeps over restarts."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """Start nothing yet; ``folder`` gets its log, and its instance folder unless that is given."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.instance = Path(environment.get("INSTANCE_DIR", folder / "instance"))
        self.environment = {
            "INSTANCE_DIR": str(self.instance),
            "CALLBACK_TOKEN": TOKEN,
            "API_TOKEN": API_TOKEN,
            "PUBLIC_URL": self.url,
            **environment,
        }
        self._folder = folder
        self._log = folder / f"log-{self.port}"
        self._process: Program | Installed | None = None
        self._metrics: set[Path] = set()

    @property
    def log(self) -> str:
        """All that it printed, over all restarts."""
        return self._log.read_text()

    @property
    def pid(self) -> int:
        """The process that the others are children of."""
        assert self._process
        return self._process.pid

    def start(self, log: Path | None = None) -> None:
        """Start it, and wait until it serves. What it logs may go to another file than what it prints."""
        self._process = self.launch(
            *("serve", "--bind", f"127.0.0.1:{self.port}"),
            stdout=self._log,
            stderr=log or self._log,
            folder=self._folder,
            environment=self.environment,
        )
        until(self._serves, 30, "the server answers")

    def launch(self, *arguments: str, **options: Any) -> Program | Installed:
        """Start the program."""
        return Program(*arguments, **options)

    def _serves(self) -> bool:
        assert self._process
        assert self._process.poll() is None, f"the server ended with {self._process.returncode}:\n{self.log}"
        with suppress(requests.RequestException):
            if requests.get(f"{self.url}/healthz", timeout=5).ok:
                self._metrics.add(metrics_folder(self.pid))
                return True
        return False

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def workers(self) -> list[int]:
        """The worker processes."""
        assert self._process
        return self._process.children()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its first process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End all of its processes at once, if it runs."""
        if self._process is None:
            return
        self._process.kill()

    def end(self) -> None:
        """End it as an operator does; it has 30 s for that."""
        assert self._process
        self.signal(signal.SIGTERM)
        assert self._process.wait(timeout=30 + MARGIN_SECONDS) == 0

    def clean_up(self) -> None:
        """Kill it, and remove what it leaves in memory when it is killed."""
        self.kill()
        for folder in self._metrics:
            shutil.rmtree(folder, ignore_errors=True)

    def waiting(self) -> float:
        """How many reports wait in the spool, as /metrics says; not a number while it does not say."""
        metrics = requests.get(f"{self.url}/metrics", timeout=10).text
        found = re.search(r"^esms_spool_reports (\S+)$", metrics, re.MULTILINE)
        return float(found[1] if found else "nan")

    def until_drained(self, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until its spool is empty, as /metrics says; where it is not in time, show all that may tell why."""
        try:
            until(lambda: self.waiting() == 0, seconds, "the spool is drained", pause=0.1)
        except AssertionError:
            metrics = requests.get(f"{self.url}/metrics", timeout=10)
            print(metrics.status_code, metrics.text, self.run("spool", "list").stdout, self.log[-10_000:], sep="\n\n")
            raise

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command with this receiver's settings."""
        return run(Program(*arguments, folder=self._folder, environment=self.environment))


@dataclass(slots=True)
class Entry:
    """One request, and its answer. ``status`` is None where none came."""

    marker: str
    reference_id: str
    client: str
    began: float
    fresh: bool
    """It was the first on its connection: an older one may be closed by the server at the same moment."""
    status: int | None = None
    result: str = ""
    """What was said of a 200; else the status, or the name of the error."""
    seconds: float = 0.0


@dataclass(slots=True)
class Ledger:
    """All requests, in the order of their ends."""

    entries: list[Entry] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    """How long ``/healthz`` took, each time."""

    def results(self, since: float = 0.0) -> Counter[str]:
        """How often which result was answered, to requests begun since that moment; 400, 503 or none by these names."""
        return Counter(entry.result for entry in list(self.entries) if entry.began >= since)

    def slowest(self) -> float:
        """The longest time that an answer took."""
        return max((entry.seconds for entry in self.entries if entry.status), default=0.0)

    def problems(self, database: Database, *, lost: frozenset[str] = frozenset(), in_time: bool = True) -> list[str]:
        """What is wrong, in words: nothing, if every answer was kept. ``lost`` are markers that may be missing."""
        with database.snapshot(limited=False) as connection:
            reports = connection.execute(text("SELECT reference_id, payload FROM status_reports")).all()
            rejected = connection.execute(text("SELECT payload, count FROM rejected_callbacks")).all()
        stored: dict[str, list[str]] = {}
        for reference_id, payload in reports:
            stored.setdefault(_marker(payload), []).append(reference_id)
        kept = Counter({_marker(payload): count for payload, count in rejected})
        found = [problem for entry in self.entries for problem in _problems_of(entry, stored, kept, lost)]
        known = {entry.marker for entry in self.entries}
        found += [f"{marker}: stored, and never sent" for marker in stored.keys() - known if marker]
        if in_time and self.slowest() > ANSWER_SECONDS + MARGIN_SECONDS:
            found.append(f"an answer took {self.slowest():.1f} s")
        if in_time and max(self.health, default=0) > 1 + MARGIN_SECONDS:
            found.append(f"/healthz took {max(self.health):.1f} s")
        return found


def _problems_of(entry: Entry, stored: dict[str, list[str]], kept: Counter[str], lost: frozenset[str]) -> list[str]:
    times, rejections = stored.get(entry.marker, []), kept[entry.marker]
    found = []
    if entry.status not in {200, 400, 503, None}:
        found.append(f"answered {entry.status}")
    if entry.status == 200 and not times and entry.marker not in lost:
        found.append(f"answered 200 ({entry.result}), and not stored")
    if entry.status == 400 and not rejections and entry.marker not in lost:
        found.append("answered 400, and not kept")
    if len(times) + rejections > 1:
        found.append(f"stored {len(times)} times, rejected {rejections} times")
    if any(reference_id != entry.reference_id for reference_id in times):
        found.append(f"stored as {times}")
    return [f"{entry.marker}: {words}" for words in found]


def _marker(payload: str) -> str:
    found = MARKER.search(payload)
    return found[0] if found else ""


class Load:
    """Clients that send callbacks to receivers all the time, each on a connection that it keeps as long as it can."""

    def __init__(
        self,
        *receivers: Address,
        ledger: Ledger,
        random: Random,
        clients: int = 6,
        fresh: bool = False,
        poison: str | None = None,
        padding: int = 0,
    ) -> None:
        """``fresh``: a connection for each request. ``poison`` is a ReferenceId that now and then is sent.

        ``padding`` is how many bytes longer each report is than a usual one.
        """
        self._ledger = ledger
        self._fresh = fresh
        self._poison = poison
        self._padding = {"padding": "x" * padding} if padding else {}
        self._stop = threading.Event()
        self._random = random
        names = [str(next(_NUMBERS)) for _ in range(clients)]
        self._names = set(names)
        self._threads = [
            threading.Thread(target=self._send_all, args=(name, receivers[place % len(receivers)], random.random()))
            for place, name in enumerate(names)
        ]
        self._threads += [threading.Thread(target=self._ask_health, args=(receiver,)) for receiver in receivers]

    def __enter__(self) -> Self:
        """Begin to send."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let every client have its last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, least: float, most: float | None = None) -> float:
        """Go on for this long, a random time if two are given; the moment at which this began."""
        began = time.monotonic()
        time.sleep(self._random.uniform(least, most or least))
        return began

    def until_answered(self, result: str, since: float, *, number: int = 1, seconds: float = 30) -> None:
        """Wait until requests begun since that moment were answered so, so often."""
        until(lambda: self._ledger.results(since)[result] >= number, seconds, f"{number} are answered {result!r}")

    def until_effects_again(self, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until every client, in requests that it sends from now on, had reports stored in the database again."""
        now = time.monotonic()

        def had_effects() -> bool:
            recent = [entry for entry in list(self._ledger.entries) if entry.began >= now]
            return {
                entry.client for entry in recent if entry.status == 200 and entry.result != "spooled"
            } >= self._names

        until(had_effects, seconds, "reports get effects again")

    def _send_all(self, client: str, receiver: Address, seed: float) -> None:
        random, connection = Random(seed), None  # noqa: S311
        for number in range(_AT_MOST_EACH):
            if self._stop.wait(random.uniform(0, 2 * _PAUSE_SECONDS)):
                break
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=40)
            entry = self._entry(client, number, random, fresh=connection.sock is None)
            try:
                _send(connection, entry, random, self._padding)
            except (OSError, http.client.HTTPException) as error:
                entry.result = type(error).__name__
                connection.close()
                connection = None
            entry.seconds = time.monotonic() - entry.began
            self._ledger.entries.append(entry)
            if connection and self._fresh:
                connection.close()
                connection = None
        if connection:
            connection.close()

    def _entry(self, client: str, number: int, random: Random, *, fresh: bool) -> Entry:
        marker = f"{client}-{number}-{random.getrandbits(32):08x}"
        chance = random.random()
        name = f"call-{random.randrange(60)}" if chance < 0.5 else f"only-{marker}"
        if chance > 0.98:
            name = ""  # nobody can tell which call this is about
        elif self._poison and chance > 0.9:
            name = self._poison
        return Entry(marker, name, client, time.monotonic(), fresh)

    def _ask_health(self, receiver: Address) -> None:
        while not self._stop.wait(0.2):
            began = time.monotonic()
            with suppress(requests.ConnectionError):
                requests.get(f"{receiver.url}/healthz", timeout=40).raise_for_status()
                self._ledger.health.append(time.monotonic() - began)


def _send(connection: http.client.HTTPConnection, entry: Entry, random: Random, padding: dict[str, str]) -> None:
    said = {"ReferenceId": entry.reference_id, **random.choice(_SHAPES), "marker": entry.marker, **padding}
    path, form = f"/esms/callback/{TOKEN}", random.random()
    if form < 0.7:
        connection.request("GET", f"{path}?{urlencode(said)}")
    elif form < 0.85:
        connection.request("POST", path, urlencode(said), {"Content-Type": "application/x-www-form-urlencoded"})
    else:
        connection.request("POST", path, json.dumps(said), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    entry.result = json.loads(content)["result"] if answer.status == 200 else str(answer.status)
    entry.status = answer.status
    assert answer.status != 503 or answer.getheader("Retry-After")


def all_is_well(
    receivers: Sequence[Receiver],
    database: Database,
    ledger: Ledger,
    *,
    lost: frozenset[str] = frozenset(),
    in_time: bool = True,
) -> None:
    """Fail unless the spools are drained, the receivers end in time, and all that they answered is what is stored."""
    counts = (
        f"{dict(ledger.results())}, slowest {ledger.slowest():.2f} s, /healthz {max(ledger.health, default=0):.2f} s"
    )
    print(counts)
    for receiver in receivers:
        receiver.until_drained()
        receiver.end()
        bad = re.search(r"^.*(Traceback|this is a bug)[\\s\\S]{,3000}", receiver.log, re.MULTILINE)
        assert bad is None, f"in the log: {bad[0]}"
    problems = ledger.problems(database, lost=lost, in_time=in_time)
    assert not problems, f"{len(problems)} problems: " + "\n".join(problems[:30])
    checked = receivers[0].run("replay", "--check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
