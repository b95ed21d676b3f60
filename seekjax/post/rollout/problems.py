"""Problems of a run's tasks, on the training and on the held-out side."""

from collections.abc import Sequence

from seekjax.tasks import Problem, Problems, parse_task


class TaskProblems:
    """Endless problems of several tasks, which take turns.

    Raises DataError for a task or level that does not exist.
    """

    def __init__(self, tasks: Sequence[str], seed: int):
        self._training: list[Problems] = []
        self._held_out: list[Problems] = []
        for name in tasks:
            task, levels = parse_task(name)
            self._training.append(Problems(task, levels, held_out=False, seed=seed))
            self._held_out.append(Problems(task, levels, held_out=True, seed=seed))

    def training(self, first: int, count: int) -> list[Problem]:
        """Return problems `first` to `first + count` of the training side."""
        return _take(self._training, first, count)

    def held_out(self, first: int, count: int) -> list[Problem]:
        """Return problems `first` to `first + count` of the held-out side."""
        return _take(self._held_out, first, count)


def _take(families: list[Problems], first: int, count: int) -> list[Problem]:
    problems = []
    for index in range(first, first + count):
        number, turn = divmod(index, len(families))
        problems.append(families[turn][number])
    return problems
