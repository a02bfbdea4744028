"""Registrations: every file that is readable is read, and each line that is not is named and costs only itself."""

from __future__ import annotations

import io
import tracemalloc
import unicodedata
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import NOW
from samples import IDENTITIES

from webapp.calls.rule import Registration
from webapp.esms.registrations import BadLine, InvalidRegistration, Lines, UnreadableList, read_registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
LONGEST = 64 * 1024


class Reading:
    """What became of a file: registrations, the words for bad lines by their numbers, and the reader."""

    def __init__(self, content: str | bytes) -> None:
        """Read all of it."""
        file = io.BytesIO(content if isinstance(content, bytes) else content.encode())
        self.lines = Lines(file, ZONE, NOW)
        read = list(self.lines)
        self.bad = dict(line for line in read if isinstance(line, BadLine))
        self.found = [line for line in read if not isinstance(line, BadLine)]
        assert file.read() == b"", "all of it is read"

    @property
    def names(self) -> list[str]:
        return [registration.reference_id for registration in self.found]


# What is read


def registration(esms_id: str, **values: Any) -> Registration:
    """What is registered of the id that is spelled so."""
    return Registration(reference_id=esms_id.lower(), esms_id=esms_id, **values)


def test_a_csv_is_read_by_the_names_of_its_header() -> None:
    read = Reading(
        "placed_at,note,Reference_ID , campaign,phone,request_id,kind\n"
        "2026-11-23 10:00,x, 066107EE-6ec4 ,Tết,0901888484,r-1,OTP\n"
        ",,b,,,,\n"
        "2026-11-23T10:00:00Z,,c\n"
    )

    assert read.bad == {}
    assert read.found == [
        registration(
            "066107EE-6ec4",
            request_id="r-1",
            phone="0901888484",
            campaign="Tết",
            placed_at=datetime(2026, 11, 23, 3, tzinfo=UTC),
            kind="otp",
        ),
        registration("b"),
        registration("c", placed_at=datetime(2026, 11, 23, 10, tzinfo=UTC)),
    ]
    assert read.lines.ignored_columns == {"note": ""}


@pytest.mark.parametrize("id_column", ["ReferenceId", "SMSID", "smsid", "Reference ID", "REFERENCE-id", '"Sms Id"'])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "; "])
def test_a_header_may_have_the_names_of_esms(id_column: str, delimiter: str) -> None:
    header = delimiter.join((id_column, "Phone", "campaign", "Placed at"))
    read = Reading(f"{header}\n{delimiter.join(('a', '1', 'june', '23/11/2026 10:00'))}\n")

    placed_at = datetime(2026, 11, 23, 3, tzinfo=UTC)
    assert (read.bad, read.found) == ({}, [registration("a", phone="1", campaign="june", placed_at=placed_at)])


def test_without_a_header_each_line_is_an_id() -> None:
    read = Reading("\n".join(sample.text for sample in IDENTITIES))

    assert read.names == [sample.text.strip().lower() for sample in IDENTITIES]
    assert (read.bad, read.lines.ignored_columns) == ({}, {})
    assert [one.esms_id for one in read.found] == [sample.text.strip() for sample in IDENTITIES]


@pytest.mark.parametrize("hint", ["sep=;", "sep=,", "SEP=\t", '"sep=;"', "sep=", "sep=|;;"])
@pytest.mark.parametrize("content", ["a\nb\n", "reference_id;phone\na;1\nb;2\n"])
def test_what_excel_says_about_the_delimiter_is_ignored(hint: str, content: str) -> None:
    assert Reading(f"\ufeff{hint}\r\n{content}").names == ["a", "b"]
    joined = Reading(f"{content}{hint}\r\n{content}")
    assert (joined.names, joined.bad) == (["a", "b", "a", "b"], {})


def test_files_that_were_joined_are_read_each_by_its_header() -> None:
    read = Reading(
        "first\nreference_id,phone\na,1\nreference_id,phone\nb,2\n"
        "\ufeffPhone;SMSID;note\n3;c;x\nsmsid\nd\nReference ID|campaign\ne|june\n"
    )

    assert read.bad == {}
    assert read.found == [
        registration("first"),
        registration("a", phone="1"),
        registration("b", phone="2"),
        registration("c", phone="3"),
        registration("d"),
        registration("e", campaign="june"),
    ]


@pytest.mark.parametrize(
    "line", ["SMSID,0901888484,june", "ReferenceId,,june", '"sms_id",0901888484,', "smsid,,", "smsid,"]
)
def test_a_call_whose_id_is_the_name_of_a_column_is_a_bad_line_and_no_header(line: str) -> None:
    read = Reading(f"reference_id,phone,campaign\na,1,may\n{line}\nb,2,may\n")

    assert list(read.bad) == [3]
    assert "is the name of a column" in read.bad[3]
    assert read.found == [registration("a", phone="1", campaign="may"), registration("b", phone="2", campaign="may")]


class Endless:
    """A stream of bytes without an end and without a line's end, behind what it begins with."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = [beginning] if beginning else []

    def readline(self, limit: int) -> bytes:
        """As much as is wanted."""
        return self._beginning.pop() if self._beginning else bytes(limit)


@pytest.mark.parametrize("beginning", [b"", b"reference_id,phone\n"])
def test_a_line_that_does_not_end_is_no_list(beginning: bytes) -> None:
    with pytest.raises(UnreadableList, match=r"line \d is over 64 MiB: this is no list of calls"):
        list(Lines(cast("BinaryIO", Endless(beginning)), ZONE, NOW))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,0901888484\nb,0901888484\n", "line 1 holds a comma, and names no column reference_id"),
        ("\n\nsep=;\na;0901888484\n", "line 4 holds a semicolon, and names no column reference_id"),
        ("a\t0901888484\n", "line 1 holds a tab, and names no column"),
        ("a|0901888484\n", "line 1 holds a bar, and names no column"),
        ("phone,campaign\n0901888484,june\n", "out of reference_id, request_id, phone, campaign, placed_at, kind."),
        ("refrence_id,phone\na,1\n", "'refrence_id': do you mean reference_id?"),
        ("phone;Referenceid2;RefernceID\n", "'RefernceID': do you mean reference_id?"),
        ("Refrence ID\na\nb\n", "line 1 names no column reference_id (or ReferenceId, SMSID)"),
        ("referenceids\na\nb\n", "'referenceids': do you mean reference_id?"),
        ('"a","1\n', "line 1 holds a comma"),
        ("reference_id,phone\ra,1\rb,2\r", "end with a carriage return alone"),
        ("a\rb\rc", "save it as CSV UTF-8"),
        (b"\xffa,1\n", "line 1 holds a comma"),
        ("reference_id,phone\r\na,Tết\r\n".encode("utf-16"), "is UTF-16 text"),
        ("reference_id,phone\r\n".encode("utf-16-be").join([b"\xfe\xff", b""]), "is UTF-16 text"),
        (b"PK\x03\x04\x14\x00\x06\x00", "an Excel workbook (.xlsx): save it as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)"),
    ],
)
def test_a_file_that_has_columns_and_no_header_is_refused_as_a_whole(content: str | bytes, words: str) -> None:
    with pytest.raises(UnreadableList) as caught:
        Reading(content)

    assert words in str(caught.value)


@pytest.mark.parametrize("first", ["reference-1", "reference-a", "refid", "sms-1", "smsx", "call", "id", "066107ee"])
def test_an_id_that_resembles_a_column_is_an_id(first: str) -> None:
    assert Reading(f"{first}\nb\n").names == [first, "b"]


def test_a_column_that_is_mistyped_is_named_with_the_likely_one() -> None:
    read = Reading("reference_id,campain,Phone number,note,esms_id,\na,june,1,x,A,\n")

    assert read.found == [registration("a")]
    assert read.lines.ignored_columns == {
        "campain": " (do you mean campaign?)",
        "Phone number": "",
        "note": "",
        "esms_id": "",
    }


def test_today_is_counted_from_now() -> None:
    read = Reading("reference_id,placed_at\na,today\nb,hôm qua\n")

    assert [one.placed_at for one in read.found] == [datetime(2026, 11, day, 17, tzinfo=UTC) for day in (22, 21)]


def test_texts_are_kept_in_one_form_of_unicode() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Đà Nẵng") for form in ("NFC", "NFD"))
    read = Reading(f"reference_id,campaign,request_id,phone,placed_at\na,{decomposed},{decomposed},{decomposed},\n")

    assert composed != decomposed
    assert read.found == [registration("a", campaign=composed, request_id=composed, phone=composed)]
    item = {"reference_id": "a", "campaign": decomposed}
    assert read_registration(item, ZONE) == registration("a", campaign=composed)


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
        pytest.param(lambda text: text.replace(",", "|"), id="bars"),
        pytest.param(lambda text: text.replace(",", ",,").replace("\n", ",\n") if "," in text else text, id="empty"),
    ],
)
def test_neither_a_bom_nor_blank_lines_line_ends_or_delimiters_matter(
    content: str, change: Callable[[str], str]
) -> None:
    read = Reading(change(content))

    assert (read.names, read.bad) == (["a", "b"], {})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "reference_id,phone\n,\n;;;\n",
        "sep=;",
        "\n\n \r\n",
        "\ufeff",
        "\ufeff\r\n",
        "reference_id",
        "reference_id\r\n\r\n",
        "\ufeffreference_id\n",
    ],
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
        ("a,x,,", "x"),
        ('a,"x;y|z"', "x;y|z"),
    ],
)
def test_quotes_are_those_of_a_csv(line: str, campaign: str | None) -> None:
    read = Reading(f'"reference_id","campaign"\n{line}\n')

    assert read.bad == {}
    assert [registration.campaign for registration in read.found] == [campaign]


def test_a_quoted_header_may_be_delimited_otherwise() -> None:
    read = Reading('"reference_id";"campaign"\n"a";"one; two"\nb;"x,y"\n')

    assert [(one.reference_id, one.campaign) for one in read.found] == [("a", "one; two"), ("b", "x,y")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quoted_value_may_go_on_in_the_next_lines(end: str) -> None:
    lines = [
        "note,reference_id,phone",
        '"called twice,',
        "",
        '""no answer""",a,1',
        "x,b,2",
        '"',
        '"',
        ',"",',
        '"y\n",c,3',
        ",d d,",
    ]
    read = Reading(end.join(lines) + end)

    assert read.found == [registration("a", phone="1"), registration("b", phone="2"), registration("c", phone="3")]
    assert list(read.bad) == [6, 8, 11]


def test_a_quote_without_an_end_costs_one_line() -> None:
    ids = [f"b{number}" for number in range(70)]
    read = Reading("\n".join(["reference_id,note", 'a,"open', *ids, 'c,"x"', 'd,"open', "e"]))

    assert read.names == [*ids, "c", "e"]
    assert list(read.bad) == [2, 74]


def test_an_id_alone_on_its_line_may_be_quoted() -> None:
    assert Reading('"a"\n b \n"c\n""\n').names == ["a", "b", '"c', '""']


def test_the_newest_line_of_a_call_comes_last() -> None:
    assert Reading("reference_id,phone\na,1\nA,2\na,1\n").found == [
        registration(name, phone=phone) for name, phone in ("a1", "A2", "a1")
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
        (b"a,1,tomorrow", "placed_at: 'tomorrow' is not a date or time such as 2026-11-23"),
        (b"a,1,11/23/2026", "there is no month 23: the day comes first"),
        (b"a,1,1790000000", "placed_at: '1790000000' is not a date or time"),
        (b'"a,b",1', "reference_id: 'a,b' holds a comma"),
        (b"a;b,1", "reference_id: 'a;b' holds a semicolon"),
        (b"a\tb,1", "reference_id: 'a\\tb' holds a tab"),
        (b"a|b,1", "reference_id: 'a|b' holds a bar"),
        (b"Phone,1", "reference_id: 'Phone' is the name of a column"),
        (b"placed at,1", "reference_id: 'placed at' is the name of a column"),
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
    assert Reading(b"\xff\na\nb\n").names == ["a", "b"]
    assert list(Reading(b"\xff\na\n").bad) == [1]
    assert Reading(b"x" * 2 * LONGEST + b"\nreference_id,phone\na,1\n").found == [registration("a", phone="1")]
    # A header in another encoding is one all the same, where its names can be read.
    assert Reading("reference_id,t\xean\na,1\n".encode("latin-1")).names == ["a"]


def test_a_bad_line_in_a_list_of_ids_is_named() -> None:
    """Without a header a delimiter is a sign that columns were lost, and a column's name that files were joined."""
    read = Reading("a\nb,0901888484\nphone\nc;1\nd\n")

    assert read.names == ["a", "d"]
    assert {number: words.partition(".")[0] for number, words in read.bad.items()} == {
        2: "reference_id: 'b,0901888484' holds a comma",
        3: "reference_id: 'phone' is the name of a column",
        4: "reference_id: 'c;1' holds a semicolon",
    }


lines = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.sampled_from(
        [
            b"a,b",
            b'"',
            b'a,"b',
            b"a;b",
            b"\xef\xbb\xbf",
            b"",
            b"smsid",
            b"reference_id;phone",
            b"a",
            b"sep=;",
            b"\xff\xfe",
        ]
    ),
)


@given(st.lists(lines, max_size=12))
def test_no_bytes_keep_the_line_after_them_from_being_read(before: list[bytes]) -> None:
    content = b"\n".join([*before, b"the-last"])
    try:
        read = Reading(content)
    except UnreadableList:
        # Of a file without a header nothing is read; behind a header all of it is.
        read = Reading(b"reference_id\n" + content)
        content = b"reference_id\n" + content

    assert read.names[-1] == "the-last"
    assert all(1 <= number <= content.count(b"\n") for number in read.bad)
    assert len(read.names) + len(read.bad) <= content.count(b"\n") + 1


# Memory


def lines_of_a_campaign(number: int) -> Iterator[bytes]:
    """``number`` lines, of which some are bad or long."""
    yield b"reference_id,phone,campaign,placed_at\n"
    usual = [b"%d,0901888484,june,2026-11-23\n", b'%d,"0901888484","j",\n', b"%d,,,soon\n", b"%d,\xff\n", b"\n"]
    for place, line in enumerate(islice(cycle(usual), number)):
        yield line % place if b"%d" in line else line
        if place % 5000 == 0:
            yield b"x" * LONGEST
            yield b"\n"


class Campaign:
    """A file of a campaign's lines that is never whole in memory."""

    def __init__(self, number: int) -> None:
        """``number`` lines."""
        self._lines = lines_of_a_campaign(number)

    def readline(self, _limit: int) -> bytes:
        """The next one."""
        return next(self._lines, b"")


def peak_of_reading(number: int) -> int:
    """Bytes allocated at the most while a file is registered in portions, as the command does."""
    lines = iter(Lines(cast("BinaryIO", Campaign(number)), ZONE, NOW))
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
    peak_of_reading(1_500)  # what is made once, such as zones and caches

    assert peak_of_reading(7_500) < 1.2 * peak_of_reading(2_500)


# One object of the API


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"reference_id": " A "}, registration("A")),
        ({"reference_id": 7, "phone": 901888484}, registration("7", phone="901888484")),
        ({"reference_id": "a", "phone": " ", "campaign": None, "placed_at": "", "kind": " "}, registration("a")),
        (
            {"reference_id": "a", "placed_at": "2026-11-23", "kind": "Voice"},
            registration("a", placed_at=datetime(2026, 11, 22, 17, tzinfo=UTC), kind="voice"),
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
        ({"reference_id": "a", "placed_at": 1790000000}, "placed_at: '1790000000' is not a date or time"),
        ({"reference_id": "a", "placed_at": "today"}, "placed_at: 'today' is not a date or time"),
        ({"reference_id": "a", "kind": "sms"}, "kind: must be voice or otp"),
    ],
)
def test_an_object_that_cannot_be_taken_is_refused_by_the_name_of_the_field(item: Any, words: str) -> None:
    with pytest.raises(InvalidRegistration) as caught:
        read_registration(item, ZONE)

    assert words in str(caught.value)
