"""What the tests of the server share: tokenizer, server over a fake engine, clients of others."""

import importlib

import pytest

from tests.serve.fake_engine import FakeEngine, byte_tokenizer, served_model
from tests.serve.running import make_api, server_of


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def engine(tokenizer):
    """The engine of one file of tests, which each of them tells what to say."""
    return FakeEngine(tokenizer)


@pytest.fixture(scope="module")
def url(engine, tokenizer):
    """The address of a server over it; files that need another one have their own."""
    with server_of(make_api(engine, served_model(tokenizer))) as url:
        yield url


@pytest.fixture
def client(openai, url):
    """OpenAI's client of the server."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def openai():
    """OpenAI's package, imported for the tests that use it: importing takes a second."""
    return importlib.import_module("openai")


@pytest.fixture(scope="session")
def anthropic():
    """Anthropic's package, imported for the tests that use it: importing takes two seconds."""
    return importlib.import_module("anthropic")
