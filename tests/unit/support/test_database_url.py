"""DATABASE_URL: what is read of it, and the words for what is not; no word shows a part of a password."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from webapp.support.database_url import read_database_url

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hidden"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("postgresql://u:p@h/d", {}),
        ("postgres://u:p@h/d?connect_timeout=5&application_name=calls", {"connect_timeout": "5"}),
        ("postgresql://u:p@h/d?sslmode=require&sslrootcert=system", {"sslmode": "require"}),
        ("postgresql://u:p@h/d?options=-csearch_path%3Dcalls", {"options": "-csearch_path=calls"}),
        ("postgresql://u:p@/d?host=a:5432&host=b:5433&target_session_attrs=read-write", {"host": ("a:5432", "b:5433")}),
        ("postgresql://u:p@a,b:5432/d", {}),
        ("postgresql:///d?host=/run/postgresql&user=me&password=hid%40den", {"host": "/run/postgresql"}),
        ("postgresql://u:p@h/d?application_name=a@b", {"application_name": "a@b"}),
        ("postgresql://u:p@h/d?client_encoding=UTF8&keepalives=0&tcp_user_timeout=0", {"keepalives": "0"}),
    ],
)
def test_options_of_libpq_are_read(text: str, options: dict[str, object]) -> None:
    url = make_url(read_database_url(text))

    assert url.drivername == "postgresql+psycopg"
    assert {name: url.query[name] for name in options} == options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("?connect_timeout=soon", "has the option connect_timeout, which must be a whole number"),
        ("?connect_timeout=-1", "has the option connect_timeout, which must be a whole number"),
        ("?connect_timeout=5&connect_timeout=6", "has the option connect_timeout, which is given twice"),
        (
            "?sslmode=yes",
            "has the option sslmode, which must be disable, allow, prefer, require, verify-ca or",
        ),
        ("?sslrootcert=/nowhere/root.crt", "has the option sslrootcert, which must be a file that is there"),
        ("?keepalives=on", "has the option keepalives, which must be 0 or 1"),
        ("?port=99999", "has the option port, which must be a port from 1 to 65535"),
        ("?target_session_attrs=rw", "has the option target_session_attrs, which must be any, read-write"),
        ("?client_encoding=latin1", "has the option client_encoding, which must be utf8"),
        ("?replication=database", "has the option replication, which is not for this program"),
        ("?autocommit=true", "has the option autocommit, which PostgreSQL does not know"),
        ("?prepare_threshold=0", "has the option prepare_threshold, which PostgreSQL does not know: none is needed"),
        (
            "?pgbouncer=true",
            "has the option pgbouncer, which PostgreSQL does not know: none is needed behind",
        ),
        ("?ssl=true", "has the option ssl, which PostgreSQL does not know: write sslmode=require"),
        ("?schema=calls", "has the option schema, which PostgreSQL does not know: write options=-csearch_path%3DNAME"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^has the option") as caught:
        read_database_url(f"postgresql://user:{SECRET}@host/calls{text}")

    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "postgresql://user:hidden@one:5432,two:5433/calls",
            "names several hosts: write them as postgresql://user:password@/calls?host=one:5432&host=two:5433",
        ),
        (
            "postgres://one:5432,two/calls?sslmode=require",
            "names several hosts: write them as postgresql://user:password@/calls?host=one:5432&host=two",
        ),
        (
            "postgresql://user:hidden@/calls?host=one&host=two&port=5432&port=5433",
            "names several hosts: write them as postgresql://user:password@/calls?host=ONE:5432&host=TWO:5432",
        ),
        ("postgresql://user:hidden@/calls?host=one,two,three&port=5432,5433", "?host=ONE:5432&host=TWO:5432"),
        ("postgresql://user:hidden@/calls?host=one:hidden&host=two", "?host=ONE:5432&host=TWO:5432"),
        ("postgresql://user:hid@den@host/calls", "cannot be read: in a user name and a password, write @ as %40"),
        ("postgresql://user:hid@den:hidden@host/calls", "write @ as %40"),
        ("postgresql://user:hid@den/hidden@host/calls", "write @ as %40"),
        ("postgresql://user:hid@den?hidden@host/calls", "write @ as %40"),
        ("postgresql://user:hid@den?hidden=hidden@host/calls", "write @ as %40"),
        ("postgresql://user:hid@den,hidden:5@host/calls", "write @ as %40"),
        ("postgresql://user:hidden@host:0/calls", "has a port that is not from 1 to 65535"),
        ("postgresql://user:hidden@host:65536/calls", "has a port that is not from 1 to 65535"),
        ("sqlite:////var/lib/calls.db?timeout=5", "has options (what follows ?), and SQLite takes none here"),
    ],
)
def test_a_url_that_cannot_be_read_is_answered_with_the_form_that_works(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^(names|cannot|has) ") as caught:
        read_database_url(text)

    assert words in str(caught.value)
    for part in ("hid@", "den", SECRET):
        assert part not in str(caught.value)


def test_the_form_that_is_advised_for_several_hosts_is_read() -> None:
    advised = "postgresql://user:password@/calls?host=one:5432&host=two:5433"

    assert make_url(read_database_url(advised)).query["host"] == ("one:5432", "two:5433")


def test_a_folder_is_no_sqlite_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"names a folder: name a file in it, such as sqlite:///{tmp_path}/calls.db"):
        read_database_url(f"sqlite:///{tmp_path}")
