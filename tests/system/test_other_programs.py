"""The commands of docs/data.md for Datasette, DuckDB and pandas, as they stand there, beside a writing application."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from commands import ON_SQLITE, done
from constants import CALLBACK_TOKEN
from running import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

    from webapp.support.settings import Settings

DOCUMENT = (Path(__file__).parents[2] / "docs/data.md").read_text()
SECTION = DOCUMENT.partition("## With other programs\n")[2].partition("\n## ")[0]
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
BIN = Path(COMMAND).parent


def command(beginning: str) -> list[str]:
    (line,) = (line for line in SHELL if line.startswith(beginning) and ("--get" in line) == ("--get" in beginning))
    program, *arguments = shlex.split(line)
    return [str(BIN / program), *arguments]


@pytest.fixture
def folder(settings: Settings, tmp_path: Path, client: FlaskClient) -> Path:
    """A working folder as a server has it, with three calls that came from callbacks."""
    (tmp_path / "instance").mkdir(exist_ok=True)
    (tmp_path / "instance/calls.db").symlink_to(tmp_path / "calls.db")
    assert settings
    for name, status in (("00123", "ANSWERED"), ("b", "ANSWERED"), ("c", "NO ANSWER")):
        settle(client, name, status)
    done("rollups", "rebuild")
    return tmp_path


def settle(client: FlaskClient, name: str, status: str) -> None:
    answer = client.get(
        f"/esms/callback/{CALLBACK_TOKEN}?ReferenceId={name}&CallStatus={status}&SendStatus=5&Price=450.0000"
    )
    assert answer.status_code == 200


def test_every_command_of_the_section_is_run_here() -> None:
    assert [line.split()[0] for line in SHELL] == ["pip", "datasette", "datasette", "esms-calls", "esms-calls"]
    assert len(PYTHON) == 2


@pytest.fixture
def datasette(folder: Path) -> Iterator[str]:
    """Its address, which the document names."""
    (address,) = re.findall(r"`(http://127\.0\.0\.1:\d+)/calls/call_facts`", SECTION)
    arguments = command("datasette instance/calls.db --port")
    with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        for _ in range(200):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            try:
                requests.get(address, timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        yield address
        process.terminate()


@ON_SQLITE
def test_datasette_reads_the_file_beside_the_server(datasette: str, client: FlaskClient) -> None:
    before = requests.get(f"{datasette}/calls/call_facts.json?_shape=array", timeout=5).json()
    settle(client, "new", "ANSWERED")
    after = requests.get(f"{datasette}/calls/call_facts.json?_shape=array", timeout=5).json()
    written = requests.get(f"{datasette}/calls.json", params={"sql": "DELETE FROM calls"}, timeout=5)

    assert sorted(row["reference_id"] for row in before) == ["00123", "b", "c"]
    assert sorted(row["reference_id"] for row in after) == ["00123", "b", "c", "new"]
    assert {row["outcome"] for row in after} == {"answered", "unanswered"}
    assert written.status_code == 400
    assert requests.get(f"{datasette}/calls/call_facts", timeout=5).ok


@ON_SQLITE
def test_datasette_answers_without_a_browser(folder: Path) -> None:
    printed = subprocess.run(command("datasette instance/calls.db --get"), cwd=folder, check=True, capture_output=True)

    (row,) = json.loads(printed.stdout)
    assert (row["campaign"], row["calls"], row["answered"], row["price_vnd"]) == (None, 3, 2, 1350.0)


@ON_SQLITE
def test_duckdb_and_pandas_read_the_folder_of_months(folder: Path) -> None:
    for line in SHELL:
        if line.startswith("esms-calls"):
            done(*shlex.split(line)[1:])

    shown, printed = (
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True).stdout
        for code in PYTHON
    )

    month = f"{time.strftime('%Y-%m', time.gmtime(time.time() + 7 * 3600))}"
    assert [line.strip("│ ").split() for line in shown.splitlines() if month in line] == [
        [month, "│", "answered", "│", "2", "│", "900.0000"],
        [month, "│", "unanswered", "│", "1", "│", "450.0000"],
    ]
    assert re.findall(r"(answered|unanswered) +(\d+)", printed) == [("answered", "2"), ("unanswered", "1")]
    assert len(list((folder / "lake/reports").rglob("*.parquet"))) == 1
