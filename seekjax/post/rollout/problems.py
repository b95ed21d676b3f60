"""Problems of a run's tasks, on the training and on the held-out side."""

from collections.abc import Sequence

from seekjax.tasks import Problem, Problems, parse_task


class TaskProblems:
    """Endless problems of several tasks, which take turns.

    Raises DataError for a task or level that does not exist.
    """

    def __init__(self, tasks: Sequence[str], seed: int):
        families = [parse_task(name) for name in tasks]
        self._training = [
            Problems(task, levels, held_out=False, seed=seed) for task, levels in families
        ]
        self._held_out = [
            Problems(task, levels, held_out=True, seed=seed) for task, levels in families
        ]

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
