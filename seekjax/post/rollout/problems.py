"""Problems of a run's tasks, on the training and on the held-out side."""

from collections.abc import Callable, Sequence
from itertools import count

from seekjax.tasks import Problem, Problems, parse_task


class TaskProblems:
    """Problems of several tasks, which take turns; a small task repeats its problems.

    Raises DataError for a task or level that does not exist.
    """

    def __init__(self, tasks: Sequence[str], seed: int):
        self._training: list[Problems] = []
        self._held_out: list[Problems] = []
        for name in tasks:
            task, levels = parse_task(name)
            self._training.append(Problems(task, levels, held_out=False, seed=seed))
            self._held_out.append(Problems(task, levels, held_out=True, seed=seed))
        self._distinct: list[Problem] = []
        self._wanted = 0

    def training(self, first: int, count: int) -> list[Problem]:
        """Return problems `first` to `first + count` of the training side."""
        return _take(self._training, first, count)

    def held_out(self, first: int, count: int) -> list[Problem]:
        """Return problems `first` to `first + count` of the held-out side."""
        return _take(self._held_out, first, count)

    def distinct_held_out(self, wanted: int) -> list[Problem]:
        """Return the first `wanted` distinct problems of the held-out side, or all that it has."""
        if self._wanted != wanted:
            self._distinct = distinct(self.held_out, wanted)
            self._wanted = wanted
        return self._distinct


def _take(families: list[Problems], first: int, count: int) -> list[Problem]:
    problems = []
    for index in range(first, first + count):
        number, turn = divmod(index, len(families))
        problems.append(families[turn][number])
    return problems


def distinct(side: Callable[[int, int], Sequence[Problem]], wanted: int) -> list[Problem]:
    """Return the first `wanted` problems of a side that differ in their canonical form.

    There are fewer if the tasks have no more.
    """
    problems: dict[tuple[str, str], Problem] = {}
    for index in count():
        if len(problems) == wanted or index == 1000 + 4 * wanted:
            break
        [problem] = side(index, 1)
        problems.setdefault((problem.task, problem.key), problem)
    return list(problems.values())
