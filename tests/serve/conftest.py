"""One tokenizer for all tests of the server."""

import pytest

from tests.serve.fake_engine import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()
