"""Tasks whose answers are checked, not judged: `find_task("countdown")`, and `Problems` of its
training or held-out side.
"""

from seekjax.errors import DataError
from seekjax.registry import did_you_mean
from seekjax.tasks.addition import Addition
from seekjax.tasks.arithmetic import Arithmetic
from seekjax.tasks.countdown import Countdown
from seekjax.tasks.equation import Equation
from seekjax.tasks.knights import Knights
from seekjax.tasks.program import PROGRAM
from seekjax.tasks.task import Grade, Problem, Problems, Task, attempt, is_held_out

TASKS: dict[str, Task] = {
    task.name: task
    for task in (Addition(), Countdown(), Arithmetic(), Equation(), Knights(), PROGRAM)
}

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


def find_task(name: str) -> Task:
    """A task by name; "gym:FAMILY" is a family of reasoning-gym. Raises DataError."""
    if name.startswith("gym:"):
        from seekjax.tasks.gym import open_family  # an optional extra, looked for only when asked

        return open_family(name.removeprefix("gym:"))
    if name not in TASKS:
        raise DataError(
            f"there is no task {name!r}{did_you_mean(name, TASKS)} "
            f"There are {', '.join(TASKS)}, and gym:FAMILY."
        )
    return TASKS[name]


def parse_task(name: str) -> tuple[Task, tuple[int, ...]]:
    """A task and its levels, from NAME (all levels) or NAME:LEVEL. Raises DataError."""
    base, _, level = name.rpartition(":")
    if not level.isdecimal():
        base, level = name, ""
    task = find_task(base)
    return task, (int(level),) if level else tuple(task.levels)
