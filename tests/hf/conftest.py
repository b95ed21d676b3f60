"""The models of transformers, for the tests that compare with them."""

import pytest


@pytest.fixture(scope="session")
def peers():
    """The module peers.py, which imports torch for three seconds; skips where that is missing."""
    return pytest.importorskip("tests.hf.peers")
