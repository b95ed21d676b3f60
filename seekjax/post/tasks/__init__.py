"""Tasks whose answers are checked, not judged: `find_task("countdown")`, and `Problems` of its
training or held-out side."""

from difflib import get_close_matches

from seekjax.data.errors import DataError

from .addition import Addition
from .arithmetic import Arithmetic
from .countdown import Countdown
from .equation import Equation
from .knights import Knights
from .program import PROGRAM
from .task import Problem, Problems, Task, Verdict, attempt, is_held_out

TASKS: dict[str, Task] = {
    task.name: task
    for task in (Addition(), Countdown(), Arithmetic(), Equation(), Knights(), PROGRAM)
}

__all__ = ["TASKS", "Problem", "Problems", "Task", "Verdict", "attempt", "find_task", "is_held_out"]


def find_task(name: str) -> Task:
    """A task by name; "gym:FAMILY" is a family of reasoning-gym. Raises DataError."""
    if name.startswith("gym:"):
        from .gym import open_family  # an optional extra, looked for only when asked

        return open_family(name.removeprefix("gym:"))
    if name not in TASKS:
        near = get_close_matches(name, TASKS, 1)
        raise DataError(
            f"there is no task {name!r}{f': did you mean {near[0]!r}?' if near else ''} "
            f"There are {', '.join(TASKS)}, and gym:FAMILY."
        )
    return TASKS[name]
