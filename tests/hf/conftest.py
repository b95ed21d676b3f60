"""The models of transformers, for the tests that compare with them."""

import importlib

import pytest


@pytest.fixture(scope="session")
def peers():
    """The module peers.py, which imports torch for three seconds."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} comes with pip install -e '.[parity]'")
    return importlib.import_module("tests.hf.peers")
