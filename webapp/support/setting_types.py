"""The types of the settings: how the text of each kind is read, and what is said of a wrong one."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field

from webapp.support import tokens
from webapp.support.addresses import Network, read_networks, split_bind
from webapp.support.database_url import read_database_url
from webapp.support.times import parse_duration

_SIZE = re.compile(r"[0-9]+(?:\.[0-9]+)? ?(?:b|[kmgt]i?b|[kmgt])?", re.ASCII | re.IGNORECASE)
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?) ?%")
_SCHEME = re.compile(r"https?|socks[45][ah]?")
_WEB_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


def _read_share(text: object) -> object:
    """``"5%"``, ``"0.5%"`` or ``"100 %"`` as an exact part of one."""
    if not isinstance(text, str):
        return text
    match = _SHARE.fullmatch(text)
    share = Decimal(match[1]) / 100 if match else None
    if share is None or share > 1:
        raise ValueError("must be a percentage such as 5%, 0.5% or 100%")
    return share


def _check_size(text: object) -> object:
    """A text that is a size as a whole: pydantic reads ``1,5GiB`` as one byte, and ignores what follows a size."""
    if isinstance(text, str) and not _SIZE.fullmatch(text):
        raise ValueError("must be a size such as 500MiB or 1.5GiB")
    return text


def _lower(text: object) -> object:
    return text.lower() if isinstance(text, str) else text


def _longer_than_0s(length: timedelta) -> timedelta:
    if not length:
        raise ValueError("must be longer than 0s")
    return length


def _from_1s_to_1m(length: timedelta) -> timedelta:
    if not timedelta(seconds=1) <= length <= timedelta(minutes=1):
        raise ValueError("must be from 1s to 1m")
    return length


def _read_tokens(text: object) -> object:
    """Comma-separated tokens as a tuple."""
    if not isinstance(text, str):
        return text
    given = tuple(token.strip() for token in text.split(",") if token.strip())
    if not given or not all(tokens.is_well_formed(token) for token in given):
        message = (
            "each token must have at least 16 characters out of A-Z a-z 0-9 - _ . ~ (commas between several tokens); "
            "unset it to have one generated"
        )
        raise ValueError(message)
    return given


def _check_key(text: str) -> str:
    if not tokens.is_well_formed(text):
        raise ValueError("must have at least 16 characters out of A-Z a-z 0-9 - _ . ~; unset it to have one generated")
    return text


def _read_time_zone(name: object) -> object:
    if not isinstance(name, str):
        return name
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):  # Some names are folders: Asia.
        raise ValueError("must be the name of a time zone, such as Asia/Ho_Chi_Minh or UTC") from None


def _folder(path: Path) -> Path:
    # Those of Path raise what they may not look at.
    if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112
        raise ValueError(f"must be a folder, and {path} is none")
    return path


def _web_url(text: str) -> str:
    if not _WEB_URL.fullmatch(text):
        raise ValueError("must be a URL such as https://calls.example.vn, without a query or a password")
    try:
        has_no_port = urlsplit(text).port == 0
    except ValueError:
        has_no_port = True
    if has_no_port:
        raise ValueError("must be a URL such as https://calls.example.vn, with a port from 1 to 65535 if any")
    return text.rstrip("/")


def _message_api_url(text: str) -> str:
    return "off" if text.lower() == "off" else _web_url(text)


def _proxy(text: str) -> str:
    """A proxy's URL, with the scheme that is usual to leave out."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        known = bool(_SCHEME.fullmatch(parts.scheme) and parts.hostname and parts.port != 0)
    except ValueError:
        known = False
    if not known:
        raise ValueError("must be a URL such as http://proxy.example.vn:3128")
    return url


def _networks(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        networks = read_networks(text)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from None
    if not networks:
        raise ValueError("must name an address or a network; unset it to take callbacks from all")
    return networks


def _bind(text: str) -> str:
    try:
        _, port = split_bind(text)
    except ValueError:
        port = 0
    if not port:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:9100")
    return text


def _readable_file(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"cannot be read ({path}: {error.strerror}): name a file of CA certificates in PEM") from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[Duration, AfterValidator(_longer_than_0s)]
AnswerTime = Annotated[Duration, AfterValidator(_from_1s_to_1m)]
Size = Annotated[ByteSize, BeforeValidator(_check_size), Field(gt=0)]
Share = Annotated[Decimal, BeforeValidator(_read_share)]
Tokens = Annotated[tuple[str, ...], BeforeValidator(_read_tokens)]
HashKey = Annotated[str, AfterValidator(_check_key)]
Zone = Annotated[ZoneInfo, BeforeValidator(_read_time_zone)]
Folder = Annotated[Path, AfterValidator(_folder)]
CertificateFile = Annotated[Path, AfterValidator(_readable_file)]
DatabaseUrl = Annotated[str, AfterValidator(read_database_url)]
Url = Annotated[str, AfterValidator(_web_url)]
MessageApiUrl = Annotated[str, AfterValidator(_message_api_url)]
Proxy = Annotated[str, AfterValidator(_proxy)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
Bind = Annotated[str, AfterValidator(_bind)]
IN_LOWER_CASE = BeforeValidator(_lower)
LogFormat = Annotated[Literal["text", "json"], IN_LOWER_CASE]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], IN_LOWER_CASE]
