"""The command register: counts, bad lines, and what is registered when it ends early."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from makers import NOW, callback, change_by_hand
from running import COMMAND
from until import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

from commands import ON_SQLITE, SET, done, run


def test_register_counts_what_is_new_and_what_was_known(
    settings: Settings, writer: Writer, reader: Reader, tmp_path: Path
) -> None:
    writer.record([callback("reported", 1, call_status="BUSY")], NOW)
    file = tmp_path / "placed.csv"
    file.write_text(
        "reference_id,phone,placed_at,note,other\nA,0901888484,2026-11-23,x,y\nheard,1\nb\n", encoding="utf-8-sig"
    )

    first, second = run("register", file), run("register", stdin="a\nc\n")

    assert first.exit_code == second.exit_code == 0
    assert first.stdout == "registered 3, already known 0, changed 0, bad lines 0\n"
    assert second.stdout == "registered 1, already known 1, changed 0, bad lines 0\n"
    assert first.stderr == "ignored columns: note, other\nregistering: 3 calls, 0 bad lines\n"
    call = reader.call("a")
    assert call is not None
    assert (call["phone"], call["placed_at"]) == ("0901888484", "2026-11-22T17:00:00.000000Z")
    assert settings.time_zone.key == "Asia/Ho_Chi_Minh"


@SET
def test_register_names_bad_lines_and_registers_the_rest(reader: Reader) -> None:
    result = run("register", stdin=b"reference_id,phone\na,1\nx y,2\n\n" + b"\xff\nb,3\nc,4,5")

    assert (result.exit_code, result.stdout) == (1, "registered 2, already known 0, changed 0, bad lines 3\n")
    named = [line for line in result.stderr.splitlines() if line.startswith("line ")]
    assert [line.partition(": ")[0] for line in named] == ["line 3", "line 5", "line 7"]
    assert "reference_id" in named[0]
    assert reader.count() == 2


@pytest.mark.parametrize(
    "content",
    ["066107ee,0901888484\nb,0901888485\n", "phone;campaign\n1;june\n", "refrence_id|phone\na|1\n", "refrence_id\na\n"],
)
@SET
def test_register_refuses_a_file_without_a_header_as_a_whole(reader: Reader, content: str) -> None:
    result = run("register", stdin=content)

    assert (result.exit_code, reader.count()) == (2, 0)
    assert "line 1 " in result.stderr
    assert "names no column reference_id" in result.stderr


@SET
def test_register_names_the_first_20_bad_lines_and_counts_the_others(reader: Reader) -> None:
    result = run("register", stdin="reference_id\n" + "a b\n" * 2000 + "c\n")

    assert (result.exit_code, reader.count()) == (1, 1)
    assert result.stdout == "registered 1, already known 0, changed 0, bad lines 2000\n"
    named = [line.partition(": ")[0] for line in result.stderr.splitlines() if line.startswith("line ")]
    assert named == [f"line {number}" for number in range(2, 22)]
    assert "and 1980 more bad lines\n" in result.stderr


@SET
def test_register_counts_the_calls_that_a_value_changed(reader: Reader) -> None:
    done("register", stdin="reference_id,phone,campaign\na,1,june\nb,2,june\n")

    again = done("register", stdin="reference_id,phone,campaign\nA,1,june\nb,,july\nc,3,july\n")

    assert again == "registered 1, already known 2, changed 1, bad lines 0\n"
    changed = reader.call("b")
    assert changed is not None
    assert (changed["phone"], changed["campaign"]) == ("2", "july")


@SET
def test_register_check_says_what_would_be_and_changes_nothing(reader: Reader, database: Database) -> None:
    done("register", stdin="reference_id,phone\na,1\nb,2\n")
    before = list(reader.export())
    change_by_hand(database, "UPDATE calls SET registered_at = NULL WHERE reference_id = 'b'")
    reset = list(reader.export())
    assert before != reset

    given = "reference_id,phone\nA,1\na,3\nb,2\nc,1\nC,1\nx y,1\n"
    checked = run("register", "--check", stdin=given)
    assert list(reader.export()) == reset
    registered = run("register", stdin=given)

    assert checked.exit_code == registered.exit_code == 1
    assert checked.stdout == ("would register 2, already known 3, changed 1, bad lines 1; nothing was registered\n")
    assert registered.stdout == "registered 2, already known 3, changed 1, bad lines 1\n"
    assert "line 7: reference_id" in checked.stderr
    assert run("register", "--check", stdin="a,1\n").exit_code == 2


@SET
def test_register_check_counts_a_call_of_an_earlier_portion_once(reader: Reader) -> None:
    given = "".join(f"call-{number}\n" for number in range(1500)) + "call-3\nCALL-1400\n"

    checked = done("register", "--check", stdin=given)

    assert checked == "would register 1500, already known 2, changed 0, bad lines 0; nothing was registered\n"
    assert reader.count() == 0


@SET
def test_register_names_a_column_that_is_probably_mistyped() -> None:
    result = run("register", stdin="reference_id,campain,note\na,june,x\n")

    assert result.exit_code == 0
    assert "ignored columns: campain (do you mean campaign?), note\n" in result.stderr


@pytest.mark.parametrize("content", ["", "\n \n", "reference_id,phone\n", "sep=;\n"])
@SET
def test_register_of_an_empty_list_says_so(content: str) -> None:
    result = run("register", stdin=content)

    assert (result.exit_code, result.stdout) == (0, "registered 0, already known 0, changed 0, bad lines 0\n")
    assert "The list is empty: it names no call." in result.stderr


@SET
def test_register_prints_its_counts_when_the_database_goes_away(
    database: Database, reader: Reader, tmp_path: Path
) -> None:
    fifo = tmp_path / "calls.csv"
    os.mkfifo(fifo)

    def feed() -> None:
        with fifo.open("w") as file:
            file.writelines(f"call-{number}\n" for number in range(1000))
            file.flush()
            until(lambda: reader.count() == 1000)
            change_by_hand(database, "ALTER TABLE calls RENAME TO gone")
            file.writelines(f"more-{number}\n" for number in range(10))

    feeding = threading.Thread(target=feed)
    feeding.start()
    result = run("register", fifo)
    feeding.join()

    assert (result.exit_code, result.stdout) == (4, "registered 1000, already known 0, changed 0, bad lines 0\n")
    assert "Error: The database cannot be used: " in result.stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that are started can be interrupted, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@ON_SQLITE
@SET
def test_interrupted_register_prints_its_counts(reader: Reader) -> None:
    with subprocess.Popen(
        [COMMAND, "register"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as registering:
        assert registering.stdin
        registering.stdin.writelines(f"call-{number}\n" for number in range(1500))
        registering.stdin.flush()
        until(lambda: reader.count() == 1000)
        time.sleep(0.2)  # it counts them once they are committed
        registering.send_signal(signal.SIGINT)
        out, err = registering.communicate(timeout=20)

    assert (registering.returncode, out) == (130, "registered 1000, already known 0, changed 0, bad lines 0\n")
    assert "Interrupted." in err
    assert "Traceback" not in err


@ON_SQLITE
@SET
def test_register_that_reads_from_a_terminal_says_how_to_end() -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"a\nb\n\x04")
    result = subprocess.run([COMMAND, "register"], stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours)
    os.close(theirs)

    assert (result.returncode, result.stdout) == (0, "registered 2, already known 0, changed 0, bad lines 0\n")
    assert "Ctrl-D" in result.stderr
