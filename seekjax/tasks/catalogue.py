"""The tasks by name, and how a command line names a task: from this package or from outside it."""

import copy
from functools import cache
from typing import Any

from seekjax.errors import ConfigError, DataError
from seekjax.registry import Registry, is_foreign, load_object
from seekjax.tasks.addition import Addition
from seekjax.tasks.arithmetic import Arithmetic
from seekjax.tasks.countdown import Countdown
from seekjax.tasks.equation import Equation
from seekjax.tasks.knights import Knights
from seekjax.tasks.program import PROGRAM
from seekjax.tasks.question_file import open_question_file
from seekjax.tasks.task import Task

TASKS: Registry[Task] = Registry(
    "task",
    {
        "addition": Addition(),
        "countdown": Countdown(),
        "arithmetic": Arithmetic(),
        "equation": Equation(),
        "knights": Knights(),
        "program": PROGRAM,
    },
)

GYM = "gym:"
JSONL = "jsonl:"
LEVEL_DIGITS = 9  # at most
MEMBERS = ("levels", "make", "verify", "solve")  # of a task, next to its name


def find_task(name: str) -> Task:
    """Return the task of a name.

        countdown                  one of TASKS
        gym:FAMILY                 a family of reasoning-gym, an optional extra
        jsonl:PATH                 a file of questions and answers (question_file.py)
        module:ClassOrInstance     a task from outside this package (task.py says what it offers)

    Raises DataError if there is no such task, or it is not usable.
    """
    if name.startswith(GYM):
        from seekjax.tasks.gym import open_family  # starts a process of an optional package

        return open_family(name.removeprefix(GYM))
    if name.startswith(JSONL):
        return open_question_file(name.removeprefix(JSONL))
    if is_foreign(name):
        return load_task(name)
    try:
        return TASKS.find(name)
    except ConfigError as error:
        raise DataError(
            f"{error} There are also gym:FAMILY, a family of reasoning-gym, and jsonl:PATH, a file "
            "of questions and answers."
        ) from error


def parse_task(name: str) -> tuple[Task, tuple[int, ...]]:
    """Return a task and its levels, from NAME (all levels) or NAME:LEVEL.

    NAME is any name of `find_task`. Raises DataError if there is no such task; whether it has the
    level is checked by `Problems`.
    """
    base, _, level = name.rpartition(":")
    is_number = level.isdecimal() and len(level) <= LEVEL_DIGITS
    names_level = is_number and f"{base}:" not in (GYM, JSONL)
    if names_level:
        return find_task(base), (int(level),)
    task = find_task(name)
    return task, tuple(task.levels)


@cache
def load_task(name: str) -> Task:
    """Return the task that `module:ClassOrInstance` names, with this name.

    The name is set here, so that the task's problems carry the name that finds it again. Raises
    DataError if the task cannot be imported or made, or does not offer what a task must.
    """
    try:
        loaded: Any = load_object(name, "task")
    except ConfigError as error:
        raise DataError(str(error)) from error

    try:
        task = loaded() if isinstance(loaded, type) else copy.copy(loaded)
    except Exception as error:  # a user's class may raise anything
        raise DataError(
            f"the task {name} cannot be made ({type(error).__name__}: {error}): name a class that "
            "takes no arguments, or an instance."
        ) from error

    missing = [member for member in MEMBERS if not hasattr(task, member)]
    if missing:
        raise DataError(
            f"the task {name} has no {' and no '.join(missing)}: a task offers "
            f"{', '.join(MEMBERS)}, as seekjax/tasks/task.py describes."
        )
    if not isinstance(task.levels, range) or not task.levels:
        raise DataError(f"the task {name} has the levels {task.levels!r}: give range(1, 4) or so.")
    try:
        task.name = name
    except AttributeError as error:  # a frozen dataclass, a property
        raise DataError(
            f"the task {name} has a name that cannot be set ({error}): make it a plain attribute."
        ) from error
    return task
