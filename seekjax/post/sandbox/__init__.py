"""Model-written Python, run where it can harm nothing and graded where it cannot reach: `run` gives
its outputs, `grade` a verdict."""

from seekjax.post.sandbox.backend import backend
from seekjax.post.sandbox.execute import Limits, Outcome, SandboxError
from seekjax.post.sandbox.grade import grade, run

__all__ = ["Limits", "Outcome", "SandboxError", "backend", "grade", "run"]
