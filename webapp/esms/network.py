"""How eSMS is reached: by which proxy, with which CA bundle; and, where no answer came, what failed, in words."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import requests
from requests.utils import should_bypass_proxies

from webapp.esms.lookup import TIMEOUT, TLS, UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOCK_REMEDY = "check this machine's clock; if it is right, the server's certificate must be renewed"
_NAME_REMEDY = "check {setting}: its host must be a name in the server's certificate"
_OWN_CA = (
    "if your network opens TLS (a proxy with a CA of its own), name the file with that CA's certificate in "
    "ESMS_CA_BUNDLE; else the server is not eSMS: check {setting}"
)
_CERTIFICATE_REMEDIES = {9: _CLOCK_REMEDY, 10: _CLOCK_REMEDY, 62: _NAME_REMEDY, 64: _NAME_REMEDY}
"""By OpenSSL's code (X509_V_ERR_…): not valid yet, expired, of another host, of another address."""
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_REFUSED_BY_PROXY = "Tunnel connection failed: "
_ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""How a connection shows that the other side has ended it."""


@dataclass(frozen=True, slots=True)
class Network:
    """The way out. ``proxy`` is used for https alone: for http it would see the keys, which are in the URL.

    ``no_proxy``: hosts that are reached without it, as NO_PROXY has them. ``ca_bundle``: None takes certifi's.
    """

    proxy: str | None = None
    no_proxy: str | None = None
    ca_bundle: Path | None = None

    @property
    def proxy_password(self) -> str:
        """The proxy's password, which a proxy may repeat in the words of its refusal."""
        return unquote(urlsplit(self.proxy or "").password or "")

    def proxies_for(self, url: str) -> dict[str, str]:
        """The proxies for this URL, as ``requests`` wants them."""
        if self.proxy is None or not url.startswith("https:") or should_bypass_proxies(url, self.no_proxy or ""):
            return {}
        return {"https": self.proxy}


def is_in_clear(url: str) -> bool:
    """Whether requests to this URL can be read on their way: http to another machine."""
    host = _host(url)
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    return url.startswith("http:") and not local


def ca_bundle_problem(bundle: Path) -> str | None:
    """Why this file, or folder, cannot be used as a CA bundle; None: it can."""
    try:
        if bundle.is_dir():
            ssl.create_default_context(capath=bundle)
        else:
            ssl.create_default_context(cafile=bundle)
    except ssl.SSLError:
        return "holds no certificate"
    except OSError as error:
        return error.strerror or "cannot be read"
    return None


def kept_connection_ended(error: requests.RequestException) -> bool:
    """Whether the connection ended before any byte of an answer, if it is one that an earlier request had used."""
    return any(isinstance(cause, _ENDED) for cause in causes(error))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of eSMS's addresses: its URL, the setting that says so, and the proxies."""

    url: str
    setting: str
    proxies: dict[str, str]

    @property
    def host(self) -> str:
        """The host that is asked."""
        return _host(self.url)

    @property
    def first_stop(self) -> str:
        """The host to which the connection is made: the proxy, if there is one."""
        proxy = self.proxy
        return f"the proxy {proxy}" if proxy else self.host

    @property
    def proxy(self) -> str | None:
        """The proxy's host."""
        return next(map(_host, self.proxies.values()), None)

    @property
    def remedy(self) -> str:
        """What to do where there is no connection."""
        return f"check the network and {'HTTPS_PROXY' if self.proxies else self.setting}"


def failure(error: Exception, endpoint: Endpoint, *, connected: bool) -> tuple[str, str]:
    """The code of a look-up without an answer, and what failed and what to do; ``connected``: TLS included."""
    all_causes = list(causes(error))
    for cause in all_causes:
        if isinstance(cause, ssl.SSLError) and not (connected and isinstance(cause, _ENDED)):
            return TLS, f"The TLS connection to {endpoint.host} failed: {_tls_problem(cause, endpoint)}."
        if isinstance(cause, socket.gaierror):
            return UNREACHABLE, f"The name of {endpoint.first_stop} cannot be resolved: {endpoint.remedy}."
        if isinstance(cause, OSError) and str(cause).startswith(_REFUSED_BY_PROXY):
            refusal = str(cause).removeprefix(_REFUSED_BY_PROXY)
            words = f"The proxy {endpoint.proxy} does not connect to {endpoint.host} ({refusal}): {endpoint.remedy}."
            return UNREACHABLE, words
    if isinstance(error, requests.Timeout):
        return TIMEOUT, (
            "No whole answer came within ESMS_TIMEOUT."
            if connected
            else f"There was no connection to {endpoint.first_stop} within ESMS_TIMEOUT: {endpoint.remedy}."
        )
    if connected:
        return UNREACHABLE, f"The connection to {endpoint.host} ended before a whole answer came: {endpoint.remedy}."
    strerror = next((cause.strerror for cause in all_causes if isinstance(cause, OSError) and cause.strerror), None)
    reason = f" ({strerror})" if strerror else ""
    return UNREACHABLE, f"There is no connection to {endpoint.first_stop}{reason}: {endpoint.remedy}."


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return url


def _tls_problem(error: ssl.SSLError, endpoint: Endpoint) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, _OWN_CA).format(setting=endpoint.setting)
        return f"{error.verify_message.rstrip('.')}; {remedy}"
    if isinstance(error, _ENDED):
        return f"it ended during the handshake, a firewall may cut it: {endpoint.remedy}"
    if error.reason in _NO_TLS:
        return f"the server speaks no TLS at this port: check {endpoint.setting}"
    return f"{(error.reason or 'unknown error').lower().replace('_', ' ')}: {endpoint.remedy}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it: ``requests`` and urllib3 wrap errors in several ways."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
