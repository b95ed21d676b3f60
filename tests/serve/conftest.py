"""One tokenizer for all tests of the server, and the clients of other makers."""

import importlib

import pytest

from tests.serve.fake_engine import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def openai():
    """OpenAI's package, imported for the tests that use it: importing takes a second."""
    return importlib.import_module("openai")


@pytest.fixture(scope="session")
def anthropic():
    """Anthropic's package, imported for the tests that use it: importing takes two seconds."""
    return importlib.import_module("anthropic")
