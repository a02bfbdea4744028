"""The description of the API: valid, complete, and true of what the server answers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from constants import API_TOKEN, CALLBACK_TOKEN
from makers import NOW, lookup
from samples import FAILED_CALL

from webapp.storage.models import calls, status_reports

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.storage.writer import Writer

pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
REFERENCE_ID = "066107ee-6ec4-4283-b595-aa74977c65c5"
HEADERS = {"Authorization": f"Bearer {API_TOKEN}"}


@pytest.fixture
def description(client: FlaskClient) -> Any:
    answer = client.get("/api/openapi.json", headers=HEADERS)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    return answer.json


def check(value: Any, schema: str, description: Any) -> None:
    """Fail where the value does not follow this one of the description's schemas."""
    from openapi_schema_validator import OAS31Validator

    whole = {"$ref": f"#/components/schemas/{schema}", "components": description["components"]}
    OAS31Validator(whole, format_checker=OAS31Validator.FORMAT_CHECKER).validate(value)


def test_it_is_valid(description: Any) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(description).validate()


def test_it_needs_the_token_as_the_rest_of_the_api_does(client: FlaskClient) -> None:
    assert client.get("/api/openapi.json").status_code == 401


def test_it_describes_every_route_of_the_api_and_no_other(app: Flask, description: Any) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, item in description["paths"].items() for method in item} == routes


def test_keys_of_answers_are_those_of_the_description_each_with_words(
    client: FlaskClient, writer: Writer, description: Any
) -> None:
    client.get(f"/esms/callback/{CALLBACK_TOKEN}?{FAILED_CALL.text}")
    writer.record([lookup(REFERENCE_ID, call_status="NOANSWERED")], NOW)

    (listed,) = client.get("/api/calls", headers=HEADERS).get_json()["calls"]
    shown = client.get(f"/api/calls/{REFERENCE_ID}", headers=HEADERS).get_json()
    schemas = description["components"]["schemas"]
    described = {name: list(schemas[name]["properties"]) for name in ("Call", "Report")}

    assert list(listed) == described["Call"] == calls.columns.keys()
    assert list(shown) == [*described["Call"], "reports"]
    assert [list(report) for report in shown["reports"]] == [described["Report"]] * 2
    assert described["Report"] == status_reports.columns.keys()
    for name in ("Call", "Report", "Registration"):
        properties = schemas[name]["properties"]
        assert [key for key, one in properties.items() if not one.get("description", "").endswith(".")] == []


def test_its_examples_are_what_the_server_takes_and_answers(client: FlaskClient, description: Any) -> None:
    register = description["paths"]["/api/calls"]["post"]
    content = register["requestBody"]["content"]["application/json"]
    promised = register["responses"]["201"]["content"]["application/json"]["example"]
    again = {"registered": 0, "already_known": 1, "changed": 0}

    for name, counts in (("one", promised), ("several", again)):
        answered = client.post("/api/calls", json=content["examples"][name]["value"], headers=HEADERS)
        assert (answered.status_code, answered.json) == (201, counts)
    client.get(f"/esms/callback/{CALLBACK_TOKEN}?{FAILED_CALL.text}")
    for path, schema in (("/api/calls", None), ("/api/calls/{reference_id}", "CallWithReports")):
        promised = description["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        answered = client.get(path.format(reference_id=REFERENCE_ID), headers=HEADERS).get_json()
        assert comparable(answered) == comparable(promised)
        if schema:
            check(answered, schema, description)
            check(promised, schema, description)


def comparable(answer: Any) -> Any:
    """The answer without the times, the id and the address of this moment."""
    text = re.sub(r'"\d{4}-[\d-]+T[\d:.]+Z"', '"TIME"', json.dumps(answer))
    return json.loads(re.sub(r'"(id|remote_addr)": "[^"]+"', r'"\1": "OF THIS MOMENT"', text))
