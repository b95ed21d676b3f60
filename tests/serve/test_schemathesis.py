"""Requests that schemathesis makes from the published OpenAPI document."""

import importlib

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.serve.running import make_api, server_of

pytestmark = [pytest.mark.slow, pytest.mark.long]

# What a schema cannot say (a tool with two names that are equal) is refused with 400 too.
CHECKS = [
    "not_a_server_error",
    "content_type_conformance",
    "response_schema_conformance",
    "status_code_conformance",
]

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def schemathesis():
    """The package, imported for these tests alone: importing takes a second."""
    return importlib.import_module("schemathesis")


@pytest.fixture(scope="module")
def schema(schemathesis):
    with server_of(make_api()) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_no_request_is_answered_otherwise_than_the_document_says(schemathesis, schema, name):
    """Right requests and wrong ones: never a 5xx, always a body of the form that is published."""
    mode = schemathesis.GenerationMode(name)
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    for result in schema.get_all_operations():
        strategy = result.ok().as_strategy(generation_mode=mode)

        @seed(0)
        @FEW
        @given(case=strategy)
        def check(case):
            case.call_and_validate(checks=checks)

        check()
