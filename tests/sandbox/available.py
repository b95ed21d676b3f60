"""Which sandbox works on this machine, and the mark of the tests that need one."""

from collections.abc import Callable

import pytest

from seekjax.errors import SandboxError
from seekjax.sandbox import find_backend

try:
    BACKEND_NAME = find_backend()[0]
except SandboxError:
    BACKEND_NAME = None


def needs_sandbox(test: Callable) -> Callable:
    """Mark a test that starts sandboxes, and skip it if none works here.

    tests/sandbox/test_sandbox.py then asserts the refusal for every attack instead.
    """
    skip = pytest.mark.skipif(BACKEND_NAME is None, reason="no sandbox works here")
    return pytest.mark.sandbox(skip(test))
