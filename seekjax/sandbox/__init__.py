"""Model-written Python, run where it can harm nothing and graded where it cannot reach: `run` gives
its outputs, `grade` a verdict."""

from seekjax.sandbox.backend import backend
from seekjax.sandbox.execute import Limits, Outcome, SandboxError
from seekjax.sandbox.grade import grade, run

__all__ = ["Limits", "Outcome", "SandboxError", "backend", "grade", "run"]
