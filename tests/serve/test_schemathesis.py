"""Requests that schemathesis makes from the published OpenAPI document."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.running import make_api, server_of

pytestmark = [pytest.mark.slow, pytest.mark.long]

# What a schema cannot say (a tool with two names that are equal) is refused with 400 too.
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]

QUICK = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def schema():
    with server_of(make_api()) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_answered_otherwise_than_the_document_says(schema, mode):
    """Right requests and wrong ones: never a 5xx, always a body of the form that is published."""
    for result in schema.get_all_operations():
        strategy = result.ok().as_strategy(generation_mode=mode)

        @seed(0)
        @QUICK
        @given(case=strategy)
        def check(case):
            case.call_and_validate(checks=CHECKS)

        check()
