"""Doctor's checks of the way in: PUBLIC_URL reaches this very server by the CallbackUrl, and proxies say who sends."""

from __future__ import annotations

import secrets
import ssl
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import requests

from webapp.callbacks import proof
from webapp.cli.doctor_check import failed, ok, skipped, warning
from webapp.esms import network
from webapp.storage.database_identity import identity
from webapp.storage.errors import Unavailable
from webapp.support.settings import CALLBACK_PATH, ConfigError, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.callbacks.proof import Arrival
    from webapp.cli.doctor_check import Check
    from webapp.storage.database import Database

_URL_CHECK, _PROXIES = "public URL", "proxies"
_TIMEOUT_SECONDS = 10


class _Answer(NamedTuple):
    status: int
    proof: str | None


def public_checks(settings: Settings, database: Database) -> Iterator[Check]:
    """Send a challenge to the CallbackUrl, in a request that stores nothing."""
    url = settings.public_url
    if url is None:
        words = "PUBLIC_URL is not set: eSMS must reach this server from outside"
        yield skipped(_URL_CHECK, words, "set it to the server's public address, such as https://calls.example.vn")
        yield skipped(_PROXIES, "seen by PUBLIC_URL only")
        return
    try:
        token = settings.callback_tokens()[0]
    except ConfigError:
        yield skipped(_URL_CHECK, "there is no callback token yet", "`esms-calls serve` makes it")
        return
    challenge = secrets.token_hex(16)
    answer = _ask(settings, url, token, challenge)
    if not isinstance(answer, _Answer):
        yield answer
        return
    arrival = None
    try:
        arrival = proof.arrival_proved(answer.proof or "", token, identity(database), challenge)
    except Unavailable:
        yield skipped(_URL_CHECK, "the database cannot be read, so no server can be recognised", "see `database` here")
        return
    if answer.status == HTTPStatus.NOT_FOUND and settings.callback_allowed_ips:
        words = f"{url} answers 404 to this machine, whose address CALLBACK_ALLOWED_IPS may not name"
        yield skipped(
            _URL_CHECK, words, "name it there while you run this; `last callback` shows whether eSMS gets through"
        )
        return
    yield _reached(url, answer, arrival)
    if arrival:
        yield _proxies(settings, url, arrival)


def _ask(settings: Settings, url: str, token: str, challenge: str) -> _Answer | Check:
    """The answer to the challenge; where there is none, the failed check."""
    outgoing = network.Network(settings.https_proxy, settings.no_proxy)
    bundle = settings.ca_bundle
    with requests.Session() as session:
        session.trust_env = False
        try:
            response = session.head(
                f"{url}{CALLBACK_PATH}{token}",
                headers={proof.CHALLENGE: challenge, "X-Forwarded-For": proof.sent_from(challenge)},
                proxies=outgoing.proxies_for(url),
                verify=str(bundle[1]) if bundle else True,
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
        except (requests.RequestException, OSError, ValueError) as error:
            return _failure_check(error, network.Endpoint(url, "PUBLIC_URL", outgoing.proxies_for(url)))
        return _Answer(response.status_code, response.headers.get(proof.PROOF))


def _failure_check(error: Exception, endpoint: network.Endpoint) -> Check:
    """What failed and what to do, without the URL of the request: the token is in it."""
    tls = next((cause for cause in network.causes(error) if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if tls:
        return failed(
            _URL_CHECK,
            f"the certificate of {endpoint.host} is not valid ({tls.verify_message.rstrip('.')})",
            "renew it, and have the proxy send the whole chain; if a CA of your own has made it, "
            "name that in ESMS_CA_BUNDLE",
        )
    if isinstance(error, requests.Timeout):
        return failed(_URL_CHECK, f"{endpoint.host} does not answer within {_TIMEOUT_SECONDS} s", _FROM_OUTSIDE)
    _, problem = network.failure(error, endpoint, connected=False)
    return failed(_URL_CHECK, problem.rpartition(": ")[0] or problem, f"start server and proxy, and {_FROM_OUTSIDE}")


_FROM_OUTSIDE = (
    "check DNS, firewall and PUBLIC_URL. If it is this machine alone that cannot reach its own public address, see "
    "from another network whether PUBLIC_URL/esms/callback/ answers 404 with JSON"
)


def _reached(url: str, answer: _Answer, arrival: Arrival | None) -> Check:
    if arrival:
        return _is_public(url)
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        return failed(_URL_CHECK, *_not_this_server(url, answer.proof))
    found = f"{url} answers {answer.status} to the CallbackUrl"
    remedies = {
        404: "another program answers there, or a server with another CALLBACK_TOKEN: correct PUBLIC_URL or the token; "
        "a proxy must pass the path as it is",
        401: "the proxy asks for a password: it must not for /esms/callback/",
        403: "the proxy lets this machine not in: allow HEAD, GET and POST for /esms/callback/",
        429: "the proxy limits the rate: run this again in a minute",
        502: "start the server, and see whether the proxy passes to the address of --bind",
        503: "start the server, and see whether the proxy passes to the address of --bind",
        504: "start the server, and see whether the proxy passes to the address of --bind",
    }
    redirect = "eSMS may not follow redirects: set PUBLIC_URL to the address to which it leads"
    otherwise = redirect if answer.status // 100 == 3 else "see the log of the proxy: it must pass the request as it is"  # noqa: PLR2004
    return failed(_URL_CHECK, found, remedies.get(answer.status, otherwise))


def _not_this_server(url: str, given: str | None) -> tuple[str, str]:
    if given is None:
        return (
            f"{url} takes the CallbackUrl, and does not prove that it is this server",
            "restart the server after an upgrade; a proxy must pass HEAD, and the headers X-Esms-Calls-…",
        )
    if given == proof.NO_PROOF:
        return f"the server at {url} cannot use its database", "see its log; restart it with the settings used here"
    return (
        f"the server at {url} has this token, and another database",
        "run doctor with the settings of that server, or correct PUBLIC_URL; if the database was replaced, restart it",
    )


def _is_public(url: str) -> Check:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        inside = not ip_address(host).is_global
    except ValueError:
        inside = host == "localhost" or "." not in host
    if inside:
        return warning(
            _URL_CHECK, f"{url} is this server, and no address that eSMS can reach", "set PUBLIC_URL to a public one"
        )
    if parts.scheme == "http":
        return warning(
            _URL_CHECK, f"{url} is this server, by http: the token goes in clear", "use https: docs/deployment.md"
        )
    return ok(_URL_CHECK, f"{url} is this server, by the CallbackUrl")


def _proxies(settings: Settings, url: str, arrival: Arrival) -> Check:
    found = f"proxies that put an address into X-Forwarded-For: {arrival.hops}; TRUSTED_PROXIES is {arrival.trusted}"
    if arrival.trusted != settings.trusted_proxies:
        return failed(
            _PROXIES,
            f"the server runs with TRUSTED_PROXIES={arrival.trusted}, and the setting here is "
            f"{settings.trusted_proxies}",
            "restart the server, or run doctor with its settings",
        )
    if arrival.trusted > arrival.hops:
        return failed(
            _PROXIES, f"{found}: a sender can claim any address", f"set TRUSTED_PROXIES={arrival.hops}, and restart"
        )
    if arrival.trusted < arrival.hops:
        return failed(
            _PROXIES,
            f"{found}: a proxy's address is stored as the sender's",
            f"set TRUSTED_PROXIES={arrival.hops}, and restart",
        )
    if urlsplit(url).scheme == "https" != arrival.scheme:
        return warning(
            _PROXIES,
            "the proxy does not say that its clients use https",
            "have it send X-Forwarded-For, -Proto and -Host (deploy/nginx.conf), and set TRUSTED_PROXIES=1"
            if not arrival.hops
            else "have it send X-Forwarded-Proto and -Host (deploy/nginx.conf)",
        )
    return ok(_PROXIES, found)
