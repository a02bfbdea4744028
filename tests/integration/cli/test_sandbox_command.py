"""The command sandbox: its campaign, what it writes, and its words when something is wrong."""

from __future__ import annotations

import csv
import json
import signal
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from click.testing import CliRunner, Result
from receiver import TOKEN, Receiver
from running import Program
from until import until

from webapp.cli.commands import cli
from webapp.esms.sandbox.service import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["sandbox", *(str(argument) for argument in arguments)])


def test_a_campaign_by_command_writes_what_was_placed_and_the_truth(receiver: Receiver, tmp_path: Path) -> None:
    """And shows neither token nor callback path."""
    placed, truth = tmp_path / "placed.csv", tmp_path / "truth.jsonl"
    options = ("--bind", "127.0.0.1:0", "--lost", 0.3, "--doubled", 0.2, "--late", 0.2, "--late-by", 0, "--seed", 5)
    campaign = ("--calls", 40, "--callback-url", receiver.url, "--campaign", "autumn", "--once")
    result = run(*options, *campaign, "--placed", placed, "--truth", truth)
    assert result.exit_code == 0
    assert TOKEN not in result.output
    assert "ESMS_API_URL=http://127.0.0.1:" in result.stdout
    assert "ESMS_MESSAGE_API_URL=http://127.0.0.1:" in result.stdout
    assert "Callbacks to http://127.0.0.1" in result.stderr

    truths = [json.loads(line) for line in truth.read_text("utf-8").splitlines()]
    rows = list(csv.DictReader(placed.read_text("utf-8").splitlines()))
    assert [row["reference_id"] for row in rows] == [call["reference_id"] for call in truths]
    assert rows[0].keys() == {"reference_id", "phone", "campaign", "placed_at"}
    assert {row["campaign"] for row in rows} == {"autumn"}
    assert rows[0]["placed_at"].endswith("+00:00")
    assert all(len(call["price"].partition(".")[2]) == 4 for call in truths)
    assert all(call["expected"]["phone"] == call["phone"] for call in truths)
    final = {dict(parse_qsl(urlsplit(path).query))["ReferenceId"] for path in receiver.paths if path.endswith("=5")}
    assert final == {call["reference_id"] for call in truths if not call["lost"]}
    assert f"callbacks delivered  {len(receiver.paths)}" in result.stdout


def test_the_summary_says_what_was_given_up_and_why() -> None:
    with Receiver(503) as receiver:
        result = run("--bind", "127.0.0.1:0", "--calls", 2, "--callback-url", receiver.url, "--retry-wait", 0, "--once")
    assert result.exit_code == 0
    assert "given up           6" in result.stdout
    assert "36 x HTTP 503" in result.stdout


@pytest.mark.parametrize("once", [["--once"], []])
def test_a_wrong_token_ends_it_at_once_with_the_remedy(once: list[str]) -> None:
    """Without waiting for the repeats, and without showing the token."""
    with Receiver(404) as receiver:
        result = run("--bind", "127.0.0.1:0", "--calls", 2, "--callback-url", receiver.url, *once)
    assert result.exit_code == 1
    assert "answers callbacks with 404" in result.stderr
    assert "esms-calls callback-url" in result.stderr
    assert TOKEN not in result.output


def test_the_seed_is_random_and_printed_unless_it_is_given(receiver: Receiver) -> None:
    """The one that was printed gives the same calls again."""

    def placed(*seed: object) -> tuple[str, set[str]]:
        receiver.paths.clear()
        result = run("--bind", "127.0.0.1:0", "--calls", 3, "--callback-url", receiver.url, "--once", *seed)
        assert result.exit_code == 0
        ids = {dict(parse_qsl(urlsplit(path).query))["ReferenceId"] for path in receiver.paths}
        return result.stdout.partition("Seed: ")[2].partition(" ")[0], ids

    seed, ids = placed()
    other_seed, other_ids = placed()
    assert seed.isdecimal()
    assert not ids & other_ids
    assert placed("--seed", seed) == (seed, ids)
    assert placed("--seed", other_seed) == (other_seed, other_ids)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--calls", "5"], "belong together"),
        (["--callback-url", f"http://localhost/{TOKEN}"], "belong together"),
        (["--once"], "need a campaign"),
        (["--calls", "5", "--callback-url", f"localhost/{TOKEN}"], "must begin with http"),
        (["--lost", "5"], "--lost"),
        (["--senders", "0"], "--senders"),
        (["--bind", "8808"], "not an address"),
        (["--bind", "localhost:70000"], "not an address"),
        (["--fault", "http-418"], "--fault"),
    ],
)
def test_a_usage_error_is_named(arguments: list[str], words: str) -> None:
    """With exit code 2, and without the token."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert TOKEN not in result.output


def test_an_address_in_use_is_named() -> None:
    """In one line that says what to do."""
    with Sandbox() as other:
        address = urlsplit(other.api_url).netloc
        result = run("--bind", address)
    assert result.exit_code == 1
    assert f"Cannot listen on {address}" in result.stderr
    assert "--bind" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    """Exit code 0, and no traceback."""
    said = tmp_path / "said"
    with Program("sandbox", "--bind", "127.0.0.1:0", environment={}, stdout=said) as process:
        until(lambda: said.exists() and "\n" in said.read_text())
        api_url = said.read_text().splitlines()[0].split()[-1]
        assert requests.get(f"{api_url}/GetSendStatus", timeout=20).json()["CodeResult"] == "101"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_the_help_has_an_example() -> None:
    assert "esms-calls sandbox --calls" in run("--help").output
