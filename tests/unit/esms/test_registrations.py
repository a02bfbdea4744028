"""Registrations: every file that is readable is read, and each line that is not is named and costs only itself."""

from __future__ import annotations

import io
import tracemalloc
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import IDENTITIES

from webapp.calls.rule import Registration
from webapp.esms.registrations import BadLine, InvalidRegistration, Lines, read_registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
LONGEST = 64 * 1024


class Reading:
    """What became of a file: registrations, the words for bad lines by their numbers, and the reader."""

    def __init__(self, content: str | bytes) -> None:
        """Read all of it."""
        file = io.BytesIO(content if isinstance(content, bytes) else content.encode())
        self.lines = Lines(file, ZONE)
        read = list(self.lines)
        self.bad = dict(line for line in read if isinstance(line, BadLine))
        self.found = [line for line in read if not isinstance(line, BadLine)]
        assert file.read() == b"", "all of it is read"

    @property
    def names(self) -> list[str]:
        return [registration.reference_id for registration in self.found]


# What is read


def test_a_csv_is_read_by_the_names_of_its_header() -> None:
    read = Reading(
        "placed_at,note,Reference_ID , campaign,phone,request_id\n"
        "2026-11-23 10:00,x, 066107EE-6ec4 ,Tết,0901888484,r-1\n"
        ",,b,,,\n"
        "2026-11-23T10:00:00Z,,c\n"
    )

    assert read.bad == {}
    assert read.found == [
        Registration(
            reference_id="066107ee-6ec4",
            esms_id="066107EE-6ec4",
            request_id="r-1",
            phone="0901888484",
            campaign="Tết",
            placed_at=datetime(2026, 11, 23, 3, tzinfo=UTC),
        ),
        Registration(reference_id="b", esms_id="b"),
        Registration(reference_id="c", esms_id="c", placed_at=datetime(2026, 11, 23, 10, tzinfo=UTC)),
    ]
    assert read.lines.header_ignored == ["note"]


@pytest.mark.parametrize("header", ["ReferenceId,Phone,campaign", "SMSID,Phone,campaign", "smsid; phone; campaign"])
def test_a_header_may_have_the_names_of_esms(header: str) -> None:
    read = Reading(f"{header}\n{'a;1;june' if ';' in header else 'a,1,june'}\n")
    assert (read.bad, read.found) == ({}, [Registration(reference_id="a", esms_id="a", phone="1", campaign="june")])


def test_without_a_header_each_line_is_an_id() -> None:
    read = Reading("\n".join(sample.text for sample in IDENTITIES))

    assert read.names == [sample.text.strip().lower() for sample in IDENTITIES]
    assert (read.bad, read.lines.header_ignored, read.lines.commas_at) == ({}, [], 0)


def test_a_csv_without_a_header_is_guessed_from_its_commas() -> None:
    """Its lines may be ids, but most likely are not: whoever registers them is told which line it was."""
    read = Reading("a\nb,0901888484\nc,0901888484\n")

    assert read.names == ["a", "b,0901888484", "c,0901888484"]
    assert read.lines.commas_at == 2


@pytest.mark.parametrize("content", ["a\nb\n", "reference_id\na\nb", "phone,reference_id\n1,a\n1,b\n"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text, id="as it is"),
        pytest.param(lambda text: "\ufeff" + text, id="BOM"),
        pytest.param(lambda text: "\ufeff\n\n" + text, id="BOM on a blank line"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda text: "\n \t\n" + text.replace("\n", "\n\n  \n\r\n"), id="blank lines"),
        pytest.param(lambda text: text.replace("a", " a\t"), id="space around"),
        pytest.param(lambda text: text.upper(), id="upper case"),
        pytest.param(lambda text: text.replace(",", ";"), id="semicolons"),
        pytest.param(lambda text: text.replace(",", "\t"), id="tabs"),
    ],
)
def test_neither_a_bom_nor_blank_lines_line_ends_or_delimiters_matter(
    content: str, change: Callable[[str], str]
) -> None:
    read = Reading(change(content))

    assert (read.names, read.bad) == (["a", "b"], {})


@pytest.mark.parametrize(
    "content", ["", "\n\n \r\n", "\ufeff", "\ufeff\r\n", "reference_id", "reference_id\r\n\r\n", "\ufeffreference_id\n"]
)
def test_a_file_may_hold_no_calls(content: str) -> None:
    read = Reading(content)

    assert (read.found, read.bad) == ([], {})


@pytest.mark.parametrize(
    ("line", "campaign"),
    [
        ('a,"one, two"', "one, two"),
        ('"a","say ""hello"""', 'say "hello"'),
        ('a, "blank before"', "blank before"),
        ('a,in the "middle"', 'in the "middle"'),
        ("a,'one'", "'one'"),
        ('a,""', None),
        ('"a"', None),
        ("a;b,x", "x"),
    ],
)
def test_quotes_are_those_of_a_csv(line: str, campaign: str | None) -> None:
    read = Reading(f'"reference_id","campaign"\n{line}\n')

    assert read.bad == {}
    assert [registration.campaign for registration in read.found] == [campaign]


def test_a_quoted_header_may_be_delimited_otherwise() -> None:
    read = Reading('"reference_id";"campaign"\n"a";"one; two"\nb;"x,y"\n')

    assert [(one.reference_id, one.campaign) for one in read.found] == [("a", "one; two"), ("b", "x,y")]


def test_the_newest_line_of_a_call_comes_last() -> None:
    assert Reading("reference_id,phone\na,1\nA,2\na,1\n").found == [
        Registration(reference_id="a", esms_id=spelled, phone=phone) for spelled, phone in ("a1", "A2", "a1")
    ]


# What is not read


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", None),
        (b",0901888484", "reference_id: is missing"),
        (b"  ,x", "reference_id: is missing"),
        (b"a b", "reference_id: must have 1 to 128 visible ASCII characters"),
        (b"a" * 129, "reference_id: must have 1 to 128 visible ASCII characters"),
        ("é".encode(), "reference_id: must have 1 to 128 visible ASCII characters"),
        (b"a\0b", "reference_id: must have 1 to 128 visible ASCII characters"),
        (b"a,1,yesterday", "placed_at: 'yesterday' is not an ISO 8601 date or time"),
        (b"a,1,1790000000", "placed_at: '1790000000' is not an ISO 8601 date or time"),
        (b"a," + b"1" * 201, "phone: "),
        (b"a,1\x002", "phone: "),
        (b"a,1,,2", "the line has 4 values, and the header 3 names"),
        (b'a,"1', "the line is not CSV"),
        (b'a,"1"2', "the line is not CSV"),
        (b"a,\xff", "the line is not UTF-8 text: save the file as UTF-8"),
        ("a,ế".encode("utf-16-le"), "the line is not UTF-8 text: save the file as UTF-8"),
        (b"a," + b"1" * LONGEST, "the line is over 64 KiB"),
        (b"a," + b"1" * 3 * LONGEST, "the line is over 64 KiB"),
        (b"\0" * 10 * LONGEST, "the line is over 64 KiB"),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_a_bad_line_is_named_and_costs_only_itself(line: bytes, words: str | None, *, is_last: bool) -> None:
    content = b"reference_id,phone,placed_at\n\nfirst\n" + line
    read = Reading(content if is_last else content + b"\nlast,2\n")

    assert read.names == (["first"] if is_last else ["first", "last"])
    if words is None:
        assert read.bad == {}
    else:
        assert list(read.bad) == [4]
        assert words in read.bad[4]
        assert len(read.bad[4]) < 200


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST, LONGEST + 1, 2 * LONGEST - 1, 2 * LONGEST, 2 * LONGEST + 1])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nlast"])
def test_long_line_is_recognised_in_any_portions(length: int, end: bytes) -> None:
    """Only ``note`` is long, which nobody asks for."""
    line = b"a,".ljust(length - len(end[:1]), b"x")
    read = Reading(b"reference_id,note\n" + line + end)

    is_taken = len(line + end.removesuffix(b"last")) <= LONGEST
    assert read.names == ["a"] * is_taken + ["last"] * end.endswith(b"last")
    assert list(read.bad) == [2] * (not is_taken)


def test_a_first_line_that_is_bad_takes_no_other_with_it() -> None:
    assert Reading(b"\xff\xfe\na\nb\n").names == ["a", "b"]
    assert list(Reading(b"\xff\xfe\na\n").bad) == [1]
    assert Reading(b"x" * 2 * LONGEST + b"\nreference_id,phone\na,1\n").found == [
        Registration(reference_id="a", esms_id="a", phone="1")
    ]
    # A header in another encoding is one all the same, where its names can be read.
    assert Reading("reference_id,t\xean\na,1\n".encode("latin-1")).names == ["a"]


def test_a_file_in_another_encoding_is_named_line_by_line() -> None:
    read = Reading("reference_id,campaign\r\na,Tết\r\nb,x\r\n".encode("utf-16"))

    assert read.found == []
    assert set(read.bad) >= {1, 2, 3}


lines = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.sampled_from(
        [b"a,b", b'"', b'a,"b', b"a;b", b"\xef\xbb\xbf", b"", b"reference_id", b"reference_id;phone", b"a"]
    ),
)


@given(st.lists(lines, max_size=12))
def test_no_bytes_keep_the_line_after_them_from_being_read(before: list[bytes]) -> None:
    content = b"\n".join([*before, b"the-last"])
    read = Reading(content)

    assert read.names[-1] == "the-last"
    assert all(1 <= number <= content.count(b"\n") for number in read.bad)
    assert len(read.names) + len(read.bad) <= content.count(b"\n") + 1


# Memory


def lines_of_a_campaign(number: int) -> Iterator[bytes]:
    """So many lines, of which some are bad or long."""
    yield b"reference_id,phone,campaign,placed_at\n"
    usual = [b"%d,0901888484,june,2026-11-23\n", b'%d,"0901888484","j",\n', b"%d,,,yesterday\n", b"%d,\xff\n", b"\n"]
    for place, line in enumerate(islice(cycle(usual), number)):
        yield line % place if b"%d" in line else line
        if place % 5000 == 0:
            yield b"x" * LONGEST
            yield b"\n"


class Campaign:
    """A file of a campaign's lines that is never whole in memory."""

    def __init__(self, number: int) -> None:
        """So many lines."""
        self._lines = lines_of_a_campaign(number)

    def readline(self, _limit: int) -> bytes:
        """The next one."""
        return next(self._lines, b"")


def peak_of_reading(number: int) -> int:
    """Bytes allocated at the most while a file is registered in portions, as the command does."""
    lines = iter(Lines(cast("BinaryIO", Campaign(number)), ZONE))
    bad = read = 0
    tracemalloc.start()
    while portion := list(islice(lines, 1000)):
        found = sum(isinstance(line, BadLine) for line in portion)
        bad, read = bad + found, read + len(portion) - found
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == number * 2 // 5
    assert bad >= number * 2 // 5
    return peak


def test_memory_is_flat_however_many_lines_there_are() -> None:
    peak_of_reading(2_500)  # what is made once, such as zones and caches

    assert peak_of_reading(40_000) < 1.2 * peak_of_reading(5_000)


# One object of the API


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"reference_id": " A "}, Registration(reference_id="a", esms_id="A")),
        ({"reference_id": 7, "phone": 901888484}, Registration(reference_id="7", esms_id="7", phone="901888484")),
        (
            {"reference_id": "a", "phone": " ", "campaign": None, "placed_at": ""},
            Registration(reference_id="a", esms_id="a"),
        ),
        (
            {"reference_id": "a", "placed_at": "2026-11-23"},
            Registration(reference_id="a", esms_id="a", placed_at=datetime(2026, 11, 22, 17, tzinfo=UTC)),
        ),
    ],
)
def test_an_object_is_read_by_its_fields(item: dict[str, Any], expected: Registration) -> None:
    assert read_registration(item, ZONE) == expected


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "reference_id: is missing: each call must be a JSON object"),
        (["a"], "reference_id: is missing: each call must be a JSON object"),
        ({}, "reference_id: is missing"),
        ({"reference_id": None}, "reference_id: is missing"),
        ({"reference_id": "a b"}, "reference_id: must have 1 to 128"),
        ({"reference_id": "a", "Phone": "1"}, "'Phone': is not a field; there are reference_id, request_id, phone"),
        ({"reference_id": "a", "phone": True}, "phone: must be text"),
        ({"reference_id": "a", "phone": 1.5}, "phone: must be text"),
        ({"reference_id": "a", "phone": {}}, "phone: must be text"),
        ({"reference_id": "a", "campaign": "x" * 201}, "campaign: "),
        ({"reference_id": "a", "placed_at": 1790000000}, "placed_at: '1790000000' is not an ISO 8601"),
    ],
)
def test_an_object_that_cannot_be_taken_is_refused_by_the_name_of_the_field(item: Any, words: str) -> None:
    with pytest.raises(InvalidRegistration) as caught:
        read_registration(item, ZONE)

    assert words in str(caught.value)
