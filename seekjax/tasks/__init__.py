"""Tasks with verifiable answers: `find_task("countdown")`, and the `Problems` of its training or
held-out side.
"""

from seekjax.tasks.catalogue import TASKS, find_task, parse_task
from seekjax.tasks.task import Grade, Problem, Problems, Task, attempt, is_held_out

__all__ = [
    "TASKS",
    "Grade",
    "Problem",
    "Problems",
    "Task",
    "attempt",
    "find_task",
    "is_held_out",
    "parse_task",
]
