"""The sandbox must say what eSMS is known to say, and go wrong exactly as its options say."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from receiver import TEMPLATE, TOKEN, Receiver

from webapp.esms.sandbox.calls import expected
from webapp.esms.sandbox.faults import FAULTS
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.esms.sandbox.calls import PlacedCall

KEYS = {"ApiKey": "key", "SecretKey": "secret"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    """One sandbox for all tests that change nothing in it but a fault."""
    with Sandbox() as sandbox:
        sandbox.place(50)
        yield sandbox


def ask(sandbox: Sandbox, reference_id: str, **query: str) -> requests.Response:
    query = {**KEYS, "ReferenceId": reference_id, **query}
    return requests.get(f"{sandbox.api_url}/GetSendStatus", query, timeout=20, allow_redirects=False)


def place(sandbox: Sandbox, operation: str = "MakeCallTemplate_V2", **query: str) -> dict[str, Any]:
    query = {**KEYS, "TemplateId": "42", "Phone": "0901888484", **query}
    answer: dict[str, Any] = requests.get(f"{sandbox.api_url}/{operation}", query, timeout=20).json()
    return answer


def call_that(sandbox: Sandbox, status: str | None) -> PlacedCall:
    return next(call for call in sandbox.calls.values() if call.call_status == status)


# Placing


@pytest.mark.parametrize("operation", ["MakeCallRecord_V2", "MakeCallTemplate_V2"])
def test_a_placed_call_is_known_by_the_smsid_it_was_answered(operation: str, receiver: Receiver) -> None:
    """Whatever case and space the identity came with."""
    with Sandbox() as sandbox:
        answer = place(sandbox, operation, CallbackUrl=receiver.url)
        assert sandbox.wait(20)
        call = sandbox.calls[answer["SMSID"].strip().lower()]
    assert answer == {"CodeResult": "100", "SMSID": call.smsid}
    assert call.phone == "0901888484"
    assert [callback["SendStatus"] for callback in receiver.of(call)] == ["2", "7", "5"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"TemplateId": "missing"}, "104"),
        ({"ApiKey": ""}, "101"),
        ({"RequestId": "r" * 51}, "131"),
        ({"CallbackUrl": "ftp://example.org/"}, "131"),
    ],
)
def test_a_call_that_cannot_be_placed_is_refused_with_a_code(shared: Sandbox, query: dict[str, str], code: str) -> None:
    """No such call is then known."""
    before = len(shared.calls)
    assert place(shared, **query)["CodeResult"] == code
    assert len(shared.calls) == before


def test_a_missing_template_is_refused_in_the_published_words(shared: Sandbox) -> None:
    """The one failure of placing that is documented word for word."""
    assert place(shared, TemplateId="missing") == {"CodeResult": "104", "ErrorMessage": "Template not found"}


def test_the_same_request_id_places_only_one_call() -> None:
    """Under either of its two documented spellings."""
    with Sandbox() as sandbox:
        codes = [
            place(sandbox, RequestId="r" * 50)["CodeResult"],
            place(sandbox, "MakeCallRecord_V2", RequestID="r" * 50)["CodeResult"],
            place(sandbox)["CodeResult"],
            place(sandbox)["CodeResult"],
        ]
        assert codes == ["100", "124", "100", "100"]
        assert [call.request_id for call in sandbox.calls.values()] == ["r" * 50, None, None]


def test_only_the_keys_that_were_set_are_accepted() -> None:
    """For placing and for looking up."""
    with Sandbox(Options(api_key="key", secret_key="secret")) as sandbox:
        assert place(sandbox)["CodeResult"] == "100"
        assert place(sandbox, SecretKey="other")["CodeResult"] == "101"
        assert ask(sandbox, *sandbox.calls, ApiKey="other").json()["CodeResult"] == "101"
        assert ask(sandbox, *sandbox.calls).json()["CodeResponse"] == "100"


def test_other_paths_are_not_found(shared: Sandbox) -> None:
    """It speaks the voice API and nothing else."""
    assert requests.get(shared.api_url + "/GetBalance", timeout=20).status_code == 404


# The campaign


def test_the_same_seed_gives_the_same_campaign() -> None:
    """Also when it is placed in several goes, and without any callback."""
    options = Options(seed=7, lost=0.2, doubled=0.2, late=0.2, ring=3)
    with Sandbox(options) as one, Sandbox(options) as other:
        assert one.place(60) == other.place(20) + other.place(40)
        assert list(one.calls) == list(other.calls)


def test_another_seed_gives_another_campaign() -> None:
    """No call is shared."""
    with Sandbox(Options(seed=1)) as one, Sandbox(Options(seed=2)) as other:
        one.place(20), other.place(20)
        assert not one.calls.keys() & other.calls.keys()


def test_a_fate_changes_nothing_else_of_a_call() -> None:
    """So that runs with and without trouble can be compared call by call."""
    with Sandbox() as calm, Sandbox(Options(lost=1.0)) as rough:
        for call, lost in zip(calm.place(20), rough.place(20), strict=True):
            assert (call.reference_id, call.phone, call.price) == (lost.reference_id, lost.phone, lost.price)
            assert call.lookup_status == lost.lookup_status


def test_shares_of_lost_doubled_and_late_calls_are_honoured() -> None:
    """Within four standard deviations; the seed is fixed, so this never flakes."""
    with Sandbox(Options(lost=0.1, doubled=0.2, late=0.3)) as sandbox:
        calls = sandbox.place(2000)
    fates = Counter(name for call in calls for name in ("lost", "silent", "doubled", "late") if getattr(call, name))
    assert fates["lost"] == pytest.approx(200, abs=54)
    assert fates["silent"] == pytest.approx(fates["lost"] / 2, abs=30)
    assert fates["doubled"] == pytest.approx(0.2 * 1800, abs=70)
    assert fates["late"] == pytest.approx(0.3 * 1800, abs=80)


def test_every_seen_form_of_identity_is_used() -> None:
    """Most are lower-case GUIDs."""
    with Sandbox() as sandbox:
        smsids = [call.smsid for call in sandbox.place(1000)]
    assert sum(smsid == smsid.lower() and len(smsid) == 36 for smsid in smsids) > 900
    assert any(smsid != smsid.lower() for smsid in smsids)
    assert {len(smsid) for smsid in smsids} == {32, 36, 38}
    assert any(smsid.endswith(" ") for smsid in smsids)


def test_all_outcomes_come() -> None:
    """Only answered calls have a duration, a price and keys."""
    with Sandbox() as sandbox:
        calls = sandbox.place(200)
    assert {call.call_status for call in calls} == {"ANSWERED", "NOANSWERED", None}
    for call in calls:
        answered = call.call_status == "ANSWERED"
        assert answered == bool(call.call_duration) == bool(call.price) == bool(call.sent_result)
        assert answered or call.ivr is None


# Callbacks


def test_callbacks_have_the_published_form_and_order(receiver: Receiver) -> None:
    """Names, order, spelling and decimals as in the published example."""
    with Sandbox() as sandbox:
        sandbox.place(60, callback_url=receiver.url)
        assert sandbox.wait(20)
        answered, unanswered, failed = (call_that(sandbox, status) for status in ("ANSWERED", "NOANSWERED", None))
    for path in receiver.paths:
        assert [pair.partition("=")[0] for pair in urlsplit(path).query.split("&")] == TEMPLATE[:-1].split("=&")
    assert [callback["SendStatus"] for callback in receiver.of(failed)] == ["2", "7", "5"]
    last_of_answered, last_of_unanswered, last_of_failed = (
        receiver.of(call)[-1] for call in (answered, unanswered, failed)
    )
    assert last_of_answered == {
        "ReferenceId": answered.reference_id,
        "CallDuration": str(answered.call_duration),
        "CallStatus": "ANSWERED",
        "Ivr": answered.ivr or "",
        "Price": str(answered.price.quantize(Decimal("1.0000"))),
        "SentResult": "1",
        "CID": answered.cid,
        "SendStatus": "5",
    }
    assert last_of_unanswered["CallStatus"] == "NO ANSWER"
    nothing = {"CallDuration": "0", "CallStatus": "", "Ivr": "", "Price": "0.0000", "SentResult": "0"}
    assert last_of_failed == {"ReferenceId": failed.reference_id, **nothing, "CID": failed.cid, "SendStatus": "5"}


def test_the_callback_url_keeps_its_own_parameters_in_their_place(receiver: Receiver) -> None:
    """Only the documented ones are filled, where they stand."""
    url = receiver.url.partition("?")[0] + "?shop=a%20b&SendStatus=&empty=&ReferenceId=&flag"
    with Sandbox() as sandbox:
        (call,) = sandbox.place(1, callback_url=url)
        assert sandbox.wait(20)
    assert urlsplit(receiver.paths[0]).query == f"shop=a%20b&SendStatus=2&empty=&ReferenceId={call.reference_id}&flag"


def test_a_callback_url_without_parameters_gets_them_all(receiver: Receiver) -> None:
    """In the documented order."""
    with Sandbox() as sandbox:
        sandbox.place(1, callback_url=receiver.url.partition("?")[0])
        assert sandbox.wait(20)
    assert [name for name, _ in parse_qsl(urlsplit(receiver.paths[0]).query, keep_blank_values=True)] == [
        *TEMPLATE[:-1].split("=&")
    ]


def test_a_callback_url_must_be_http_and_is_not_shown(shared: Sandbox) -> None:
    """It holds a token."""
    with pytest.raises(ValueError, match="must begin with http") as caught:
        shared.place(1, callback_url=f"file:///{TOKEN}")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("status", [500, 302, 204, 0], ids=["error", "redirect", "another-2xx", "time-out"])
def test_a_callback_is_sent_again_until_it_is_answered_200(status: int) -> None:
    """Only 200 means received; redirects are not followed."""
    with Receiver(status, status, 200) as receiver:
        with Sandbox(Options(retry_wait=0, callback_timeout=0.5, senders=1)) as sandbox:
            (call,) = sandbox.place(1, callback_url=receiver.url)
            assert sandbox.wait(20)
            assert (sandbox.callbacks.delivered, sandbox.callbacks.given_up) == (3, 0)
            assert sandbox.callbacks.failures.total() == 2
        assert Counter(callback["SendStatus"] for callback in receiver.of(call)).total() == 5


def test_a_callback_is_given_up_after_six_requests() -> None:
    """Once and five repeats, each the very same."""
    with Receiver(503) as receiver:
        with Sandbox(Options(retry_wait=0)) as sandbox:
            sandbox.place(1, callback_url=receiver.url)
            assert sandbox.wait(20)
            assert (sandbox.callbacks.delivered, sandbox.callbacks.given_up) == (0, 3)
            assert sandbox.callbacks.failures == {"HTTP 503": 18}
        assert sorted(Counter(receiver.paths).values()) == [6, 6, 6]


def test_a_receiver_that_is_not_there_is_given_up_too() -> None:
    """A refused connection is no answer."""
    with Receiver() as gone:
        url = gone.url
    with Sandbox(Options(retry_wait=0)) as sandbox:
        sandbox.place(1, callback_url=url)
        assert sandbox.wait(20)
        assert sandbox.callbacks.failures == {"ConnectionError": 18}


def test_lost_calls_send_no_final_callback(receiver: Receiver) -> None:
    """And half of them none at all."""
    with Sandbox(Options(lost=1.0)) as sandbox:
        calls = sandbox.place(20, callback_url=receiver.url)
        assert sandbox.wait(20)
    for call in calls:
        assert [callback["SendStatus"] for callback in receiver.of(call)] == ([] if call.silent else ["2", "7"])
    assert {call.silent for call in calls} == {True, False}


@pytest.mark.parametrize(
    ("options", "order"),
    [
        (Options(doubled=1.0), ["2", "7", "5", "5"]),
        (Options(late=1.0, late_by=0), ["2", "5", "7"]),
        (Options(late=1.0, late_by=0.1, doubled=1.0), ["2", "5", "7", "5"]),
        (Options(ring=0.1, pace=50), ["2", "7", "5"]),
    ],
    ids=["doubled", "late", "both", "neither"],
)
def test_doubled_and_late_callbacks_arrive_so(receiver: Receiver, options: Options, order: list[str]) -> None:
    """The first attempts of one call's callbacks never overtake each other."""
    with Sandbox(options) as sandbox:
        calls = sandbox.place(10, callback_url=receiver.url)
        assert sandbox.wait(20)
    for call in calls:
        assert [callback["SendStatus"] for callback in receiver.of(call)] == order


def test_waiting_can_be_cut_short(receiver: Receiver) -> None:
    """Callbacks that are not due yet do not keep the sandbox from closing."""
    with Sandbox(Options(pace=1)) as sandbox:
        sandbox.place(1000, callback_url=receiver.url)
        assert not sandbox.wait(0)


# Look-ups


def test_a_finished_call_is_answered_in_the_published_success_form() -> None:
    """CodeResponse, the identity in upper case, no price and no CID; whole numbers or their strings."""
    with Sandbox() as sandbox:
        for call in sandbox.place(60):
            answer = ask(sandbox, call.smsid).json()
            numbers = {name: int(answer.pop(name)) for name in ("CallDuration", "SendStatus", "SentResult")}
            assert numbers == {"CallDuration": call.call_duration, "SendStatus": 5, "SentResult": call.sent_result}
            assert answer == {
                "CallStatus": "ANSWERED" if call.call_status == "ANSWERED" else "NOANSWERED",
                "CodeResponse": "100",
                "Ivr": call.ivr or "",
                "ReferenceId": call.reference_id.upper(),
            }


def test_some_answers_have_strings_for_numbers(shared: Sandbox) -> None:
    """As the page of GetSendStatus describes them; most have numbers as its example shows them."""
    kinds = Counter(type(ask(shared, reference_id).json()["SendStatus"]) for reference_id in shared.calls)
    assert kinds[int] > kinds[str] > 0


def test_an_unknown_call_is_answered_in_the_published_failure_form(shared: Sandbox) -> None:
    """CodeResult, not CodeResponse."""
    answer = ask(shared, "066107ee-6ec4-4283-b595-aa74977c65c5").json()
    assert answer.keys() == {"CodeResult", "CountRegenerate", "ErrorMessage"}
    assert (answer["CodeResult"], answer["CountRegenerate"]) == ("105", 0)


@pytest.mark.parametrize("missing", ["ApiKey", "SecretKey"])
def test_missing_keys_are_refused_in_the_published_words(shared: Sandbox, missing: str) -> None:
    """Also for a call that is known."""
    answer = ask(shared, next(iter(shared.calls)), **{missing: ""}).json()
    assert answer == {"CodeResult": "101", "CountRegenerate": 0, "ErrorMessage": "Authorize Failed"}


def test_a_call_that_still_rings_has_no_outcome() -> None:
    """A look-up can come too early."""
    with Sandbox(Options(ring=3600)) as sandbox:
        sandbox.place(10)
        call = call_that(sandbox, "ANSWERED")
        answer = ask(sandbox, call.reference_id).json()
        assert int(answer["SendStatus"]) in {2, 7}
        assert (answer["CallStatus"], answer["Ivr"], int(answer["CallDuration"])) == ("", "", 0)


def test_a_call_goes_from_waiting_to_done() -> None:
    """Never back."""
    with Sandbox(Options(ring=0.2)) as sandbox:
        (call,) = sandbox.place(1)
        seen = []
        while 5 not in seen:
            seen.append(int(ask(sandbox, call.reference_id).json()["SendStatus"]))
    assert seen == sorted(seen, key=[2, 7, 5].index)


def test_look_ups_above_the_limit_get_160() -> None:
    """And those below it an answer."""
    with Sandbox(Options(rate_limit=2)) as sandbox:
        (call,) = sandbox.place(1)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(sandbox, call.reference_id), range(40)))
        codes = [lookup.code for lookup in sandbox.lookups]
    assert codes[:2] == ["100", "100"]
    assert set(codes) == {"100", "160"}


def test_look_ups_are_recorded_in_the_order_of_their_arrival(shared: Sandbox) -> None:
    """With the time, the normalised reference id and what was answered."""
    first, second = list(shared.calls)[:2]
    del shared.lookups[:]
    ask(shared, first.upper()), ask(shared, "nobody"), ask(shared, second)
    assert [lookup[1:3] for lookup in shared.lookups] == [(first, "100"), ("nobody", "105"), (second, "100")]
    assert [lookup.at for lookup in shared.lookups] == sorted(lookup.at for lookup in shared.lookups)
    assert not shared.overlaps


def test_overlapping_look_ups_of_one_call_are_noticed() -> None:
    """Those of different calls are none."""
    with Sandbox(Options(latency=0.5)) as sandbox:
        sandbox.place(2)
        one, other = sandbox.calls
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda reference_id: ask(sandbox, reference_id), [one, other, one]))
        assert sandbox.overlaps == [one]


# Voice OTP, other channels and other oddities


def ask_message_api(sandbox: Sandbox, reference_id: str, **query: str) -> dict[str, Any]:
    query = {**KEYS, "RefId": reference_id, **query}
    answer: dict[str, Any] = requests.get(f"{sandbox.message_api_url}/GetSendStatus", query, timeout=20).json()
    return answer


def sent(receiver: Receiver, options: Options, count: int = 30) -> list[PlacedCall]:
    """A campaign whose callbacks have all come."""
    with Sandbox(options) as sandbox:
        calls = sandbox.place(count, callback_url=receiver.url)
        assert sandbox.wait(20)
    return calls


def test_voice_otp_callbacks_have_the_message_form(receiver: Receiver) -> None:
    """The template's own parameters stay, empty; what it does not name is appended."""
    for call in sent(receiver, Options(otp=1)):
        *progress, final = receiver.of(call)
        assert [callback["SendStatus"] for callback in progress] == ["2", "7"]
        assert final == dict.fromkeys(TEMPLATE[:-1].split("=&"), "") | {
            "SMSID": call.reference_id,
            "SendFailed": str(1 - call.sent_result),
            "SendStatus": "5",
            "SendSuccess": str(call.sent_result),
            "TotalPrice": f"{call.price:.4f}",
            "TotalReceiver": "1",
            "TotalSent": "1",
            "RequestId": "",
            "TypeId": "8",
            "telcoid": "1",
            "phonenumber": call.phone,
        }


def test_only_the_message_api_knows_voice_otp_and_it_says_the_price() -> None:
    with Sandbox(Options(otp=0.5)) as sandbox:
        calls = sandbox.place(40)
        for call in calls:
            voice, message = ask(sandbox, call.smsid).json(), ask_message_api(sandbox, call.smsid)
            if call.kind == "voice":
                assert (voice["CodeResponse"], message["CodeResponse"]) == ("100", "105")
                continue
            assert voice["CodeResult"] == "105"
            assert {name: str(value) for name, value in message.items()} == {
                "CodeResponse": "100",
                "SMSID": call.reference_id,
                "SendFailed": str(1 - call.sent_result),
                "SendStatus": "5",
                "SendSuccess": str(call.sent_result),
                "TotalPrice": str(float(call.price)),
                "TotalReceiver": "1",
                "TotalSent": "1",
            }
        assert {call.kind for call in calls} == {"voice", "otp"}
        assert {lookup.api for lookup in sandbox.lookups} == {"voice", "otp"}


def test_the_message_api_refuses_in_its_own_form() -> None:
    """CodeResponse, with the SMSID."""
    with Sandbox() as sandbox:
        assert ask_message_api(sandbox, "Any", ApiKey="") == {
            "CodeResponse": "101",
            "ErrorMessage": "Authorize Failed",
            "SMSID": "Any",
        }


def test_an_undetermined_voice_otp_counts_nothing_and_a_look_up_says_how_it_ended(receiver: Receiver) -> None:
    with Sandbox(Options(otp=1, undetermined=1)) as sandbox:
        (call, *_) = sandbox.place(10, callback_url=receiver.url)
        assert sandbox.wait(20)
        answer = ask_message_api(sandbox, call.reference_id)
    last = receiver.of(call)[-1]
    assert (last["SendStatus"], last["SendSuccess"], last["SendFailed"]) == ("5", "0", "0")
    assert int(answer["SendSuccess"]) + int(answer["SendFailed"]) == 1


def test_messages_of_other_channels_come_to_the_same_url(receiver: Receiver) -> None:
    with Sandbox(Options(other_channels=1)) as sandbox:
        sandbox.place(60, callback_url=receiver.url)
        assert sandbox.wait(20)
        ids = list(sandbox.other_channels)
        assert not sandbox.calls.keys() & set(ids)
    queries = [dict(parse_qsl(urlsplit(path).query)) for path in receiver.paths]
    messages = {query["SMSID"].lower(): query for query in queries if "TypeId" in query}
    assert set(messages) == set(ids)
    assert {query["TypeId"] for query in messages.values()} == {"1", "2", "23", "24", "25", "26", "27"}
    assert {query["TotalReceiver"] for query in messages.values() if query["TypeId"] == "1"} == {"169"}


def test_a_redialed_call_has_two_final_callbacks_in_either_order(receiver: Receiver) -> None:
    calls = [call for call in sent(receiver, Options(redialed=1)) if call.redialed]
    orders = {tuple(one["CallStatus"] for one in receiver.of(call) if one["SendStatus"] == "5") for call in calls}
    assert orders == {("NO ANSWER", "ANSWERED"), ("ANSWERED", "NO ANSWER")}
    for call in calls:
        prices = {one["CallStatus"]: one["Price"] for one in receiver.of(call) if one["SendStatus"] == "5"}
        assert prices == {"NO ANSWER": "0.0000", "ANSWERED": f"{call.price:.4f}"}


def test_a_repriced_call_is_reported_again_with_another_price(receiver: Receiver) -> None:
    calls = [call for call in sent(receiver, Options(repriced=1, otp=0.5)) if call.repeat_price]
    assert {call.kind for call in calls} == {"voice", "otp"}
    for call in calls:
        name = "Price" if call.kind == "voice" else "TotalPrice"
        prices = [one[name] for one in receiver.of(call) if one["SendStatus"] == "5"]
        assert prices == [f"{call.price:.4f}", f"{call.repeat_price:.4f}"]
        assert expected(call)["price_conflict"]


def test_rejected_calls_say_so_in_callbacks_and_look_ups(receiver: Receiver) -> None:
    with Sandbox(Options(rejected=1)) as sandbox:
        calls = sandbox.place(20, callback_url=receiver.url)
        assert sandbox.wait(20)
        for call in calls:
            assert receiver.of(call)[-1]["SendStatus"] == str(call.send_status)
            answer = ask(sandbox, call.reference_id).json()
            assert (str(answer["SendStatus"]), answer["CallStatus"]) == (str(call.send_status), "")
    assert {call.send_status for call in calls} == {4, 6}


def test_a_blocked_number_is_code_99_with_the_outcome_and_a_busy_server_without() -> None:
    with Sandbox(Options(blocked=1, busy=0.5)) as sandbox:
        calls = sandbox.place(60)
        for call in calls:
            first, second = ask(sandbox, call.smsid).json(), ask(sandbox, call.smsid).json()
            if call.busy:
                assert first == {"CodeResult": "99", "CountRegenerate": 0, "ErrorMessage": first["ErrorMessage"]}
            else:
                assert first["CallStatus"] == second["CallStatus"] == call.lookup_status
            assert second["CodeResponse"] == ("99" if call.call_status is None else "100")
    assert {call.blocked for call in calls} == {call.busy for call in calls} == {True, False}


def test_old_templates_bring_one_callback_without_send_status() -> None:
    """Also to a CallbackUrl that names no parameter."""
    with Receiver() as receiver:
        url = receiver.url.partition("?")[0]
        with Sandbox(Options(old_template=1, late=1)) as sandbox:
            calls = sandbox.place(20, callback_url=url)
            assert sandbox.wait(20)
        for call in calls:
            (callback,) = receiver.of(call)
            assert [*callback] == TEMPLATE[:-1].split("=&")[:-1]


def test_a_slash_may_stand_behind_the_path(receiver: Receiver) -> None:
    sent(receiver, Options(slash=1), 3)
    assert {urlsplit(path).path for path in receiver.paths} == {urlsplit(receiver.url).path + "/"}


def test_an_exact_call_is_known_by_esms_own_spelling_alone() -> None:
    with Sandbox(Options(exact=1)) as sandbox:
        for call in sandbox.place(40):
            assert ask(sandbox, call.reference_id).json()["CodeResponse"] == "100"
            other = call.reference_id.swapcase()
            assert ask(sandbox, other).json()["CodeResult"] == "105"


def test_a_kept_connection_ends_at_a_look_up_without_an_answer() -> None:
    with Sandbox(Options(closing=1)) as sandbox:
        (call,) = sandbox.place(1)
        query = {**KEYS, "ReferenceId": call.reference_id}
        with requests.Session() as session:
            url = f"{sandbox.api_url}/GetSendStatus"
            assert session.get(url, params=query, timeout=20).json()["CodeResponse"] == "100"
            with pytest.raises(requests.ConnectionError):
                session.get(url, params=query, timeout=20)
            assert session.get(url, params=query, timeout=20).json()["CodeResponse"] == "100"
        assert len(sandbox.lookups) == 2


@pytest.mark.parametrize(
    "name", ["otp", "redialed", "repriced", "rejected", "blocked", "busy", "old_template", "exact"]
)
def test_an_oddity_changes_no_other_fate_of_the_other_calls(name: str) -> None:
    some: dict[str, Any] = {name: 0.3}
    with Sandbox() as calm, Sandbox(Options(**some)) as odd:
        pairs = list(zip(calm.place(100), odd.place(100), strict=True))
    same = sum(one == other for one, other in pairs)
    assert 50 <= same < 100
    assert all((one.reference_id, one.phone) == (other.reference_id, other.phone) for one, other in pairs)


# Faults


@pytest.fixture
def call(shared: Sandbox) -> Iterator[PlacedCall]:
    """An answered call of the shared sandbox, whose fault a test sets."""
    yield call_that(shared, "ANSWERED")
    shared.faults.clear()


def faulty(sandbox: Sandbox, call: PlacedCall, fault: str) -> requests.Response:
    sandbox.faults[call.reference_id.lower()] = fault
    answer = ask(sandbox, call.reference_id)
    assert sandbox.lookups[-1].code == fault
    return answer


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_http_error(shared: Sandbox, call: PlacedCall, status: int) -> None:
    """Without any JSON."""
    answer = faulty(shared, call, f"http-{status}")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "text/html"


def test_a_redirect(shared: Sandbox, call: PlacedCall) -> None:
    """To another page of the sandbox."""
    answer = faulty(shared, call, "redirect")
    assert (answer.status_code, answer.headers["Location"]) == (302, shared.api_url)


@pytest.mark.parametrize("fault", ["garbage", "html"])
def test_what_is_no_json(shared: Sandbox, call: PlacedCall, fault: str) -> None:
    """With status 200."""
    answer = faulty(shared, call, fault)
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_a_huge_answer(shared: Sandbox, call: PlacedCall) -> None:
    """Over 1 MiB, and right but for its size."""
    answer = faulty(shared, call, "huge")
    assert len(answer.content) > 2**20
    assert answer.json()["ReferenceId"] == call.reference_id.upper()


def test_another_calls_reference(shared: Sandbox, call: PlacedCall) -> None:
    """Of a call that exists."""
    reference_id = faulty(shared, call, "wrong-reference").json()["ReferenceId"].lower()
    assert reference_id != call.reference_id.lower()
    assert reference_id in shared.calls


def test_an_answer_with_a_bom_and_the_wrong_content_type(shared: Sandbox, call: PlacedCall) -> None:
    """It is right all the same."""
    answer = faulty(shared, call, "bom")
    assert answer.content.startswith(b"\xef\xbb\xbf{")
    assert answer.headers["Content-Type"] == "text/html"
    assert json.loads(answer.content.decode("utf-8-sig"))["CallStatus"] == "ANSWERED"


def test_an_answer_without_a_reference(shared: Sandbox, call: PlacedCall) -> None:
    """It is right all the same."""
    answer = faulty(shared, call, "no-reference").json()
    assert "ReferenceId" not in answer
    assert answer["CallStatus"] == "ANSWERED"


def test_an_answer_that_is_not_final(shared: Sandbox, call: PlacedCall) -> None:
    """Though the call is long done."""
    answer = faulty(shared, call, "not-final").json()
    assert (answer["CodeResponse"], answer["SendStatus"], answer["CallStatus"]) == ("100", 7, "")
    assert answer["ReferenceId"] == call.reference_id.upper()


def test_an_answer_that_says_nothing(shared: Sandbox, call: PlacedCall) -> None:
    """Code 100, and every field null or empty."""
    answer = faulty(shared, call, "nothing-said").json()
    assert answer.pop("CodeResponse") == "100"
    assert answer.keys() == {"CallDuration", "CallStatus", "Ivr", "ReferenceId", "SendStatus", "SentResult"}
    assert set(answer.values()) == {None, ""}


@pytest.mark.parametrize("code", ["99", "101", "104", "105", "140", "143", "160", "unknown-code"])
def test_a_failure_code(shared: Sandbox, call: PlacedCall, code: str) -> None:
    """In the published failure form."""
    answer = faulty(shared, call, code).json()
    assert answer.keys() == {"CodeResult", "CountRegenerate", "ErrorMessage"}
    assert answer["CodeResult"] == {"unknown-code": "999"}.get(code, code)


def test_a_closed_connection(shared: Sandbox, call: PlacedCall) -> None:
    """Without a byte of an answer."""
    with pytest.raises(requests.ConnectionError):
        faulty(shared, call, "reset")


@pytest.mark.parametrize(("fault", "expected"), [("drip", b"\r\n\r\n   "), ("drip-header", b"X-Slow:   ")])
def test_an_answer_that_drips(
    shared: Sandbox, call: PlacedCall, fault: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, so that no pause between two bytes is long."""
    monkeypatch.setattr("webapp.esms.sandbox.faults._DRIP_SECONDS", 0.02)
    shared.faults[call.reference_id.lower()] = fault
    url = urlsplit(shared.api_url)
    with socket.create_connection((url.hostname, url.port), timeout=20) as connection:
        path = f"{url.path}/GetSendStatus?ApiKey=k&SecretKey=s&ReferenceId={call.reference_id}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: sandbox\r\n\r\n".encode())
        received = b""
        while not received.endswith(expected):
            received += connection.recv(1000)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("fault", ["hang", "drip", "drip-header"])
def test_closing_ends_what_would_last_for_ever(fault: str) -> None:
    """The client then sees its connection end."""
    with ThreadPoolExecutor(1) as pool:
        with Sandbox() as sandbox:
            sandbox.answer_all_with(fault)
            answer = pool.submit(ask, sandbox, "any")
            while not sandbox.lookups:
                time.sleep(0.01)
        with pytest.raises(requests.RequestException):
            answer.result(timeout=20).json()


def test_answer_that_never_arrives(shared: Sandbox, call: PlacedCall) -> None:
    """The client gives up first."""
    shared.faults[call.reference_id.lower()] = "hang"
    query = {**KEYS, "ReferenceId": call.reference_id}
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{shared.api_url}/GetSendStatus", query, timeout=0.3)


@pytest.mark.parametrize(("fault", "status"), [("later", 503), ("later-date", 429)])
def test_it_may_say_when_to_ask_again(shared: Sandbox, call: PlacedCall, fault: str, status: int) -> None:
    """In seconds, or as a date."""
    shared.faults[call.reference_id.lower()] = fault
    answer = ask(shared, call.reference_id)
    said = answer.headers["Retry-After"]
    seconds = float(said) if said.isdecimal() else (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    assert answer.status_code == status
    assert 0 < seconds <= 2


def test_every_fault_is_tested_here() -> None:
    """A new one needs a test, and `tested` its name."""
    tested = {"http-500", "http-503", "http-429", "redirect", "hang", "drip", "drip-header", "reset", "garbage", "html"}
    tested |= {"later", "later-date", "huge", "bom", "wrong-reference", "no-reference"}
    tested |= {"not-final", "nothing-said", "unknown-code"}
    assert FAULTS.keys() == tested | {"99", "101", "104", "105", "140", "143", "160"}


def test_one_answer_for_every_look_up(shared: Sandbox) -> None:
    """Until it is taken back; a name that is no fault is refused."""
    shared.answer_all_with("143")
    assert ask(shared, "nobody").json()["CodeResult"] == "143"
    shared.answer_all_with(None)
    assert ask(shared, "nobody").json()["CodeResult"] == "105"
    with pytest.raises(ValueError, match="no fault 'http-418'"):
        shared.answer_all_with("http-418")


def test_the_error_rate_draws_the_same_faults_from_the_same_seed() -> None:
    """From those that were named, and in their share."""
    options = Options(error_rate=0.5, faults=("http-503", "160"))
    codes = []
    for _ in range(2):
        with Sandbox(options) as sandbox:
            for call in sandbox.place(40):
                ask(sandbox, call.reference_id)
            codes.append([lookup.code for lookup in sandbox.lookups])
    assert codes[0] == codes[1]
    assert set(codes[0]) == {"100", "http-503", "160"}
    assert codes[0].count("100") == pytest.approx(20, abs=12)


def test_an_unknown_fault_is_refused() -> None:
    """With the names of those there are."""
    with pytest.raises(ValueError, match="no fault 'http-418'; there are http-500"):
        Options(faults=("http-418",))
