"""Model-written Python, run where it can harm nothing and graded where it cannot reach.

`run` returns what a function gives for each input; `grade` compares that with expected values.
"""

from seekjax.errors import SandboxError
from seekjax.sandbox.backend import find_backend
from seekjax.sandbox.execution import Limits, Outcome
from seekjax.sandbox.grading import grade, run

__all__ = ["Limits", "Outcome", "SandboxError", "find_backend", "grade", "run"]
