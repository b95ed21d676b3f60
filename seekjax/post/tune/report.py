"""Words that the runs on samples share."""

from collections.abc import Sequence
from pathlib import Path

from seekjax.data import Corpus, Source
from seekjax.post.rollout.problems import distinct
from seekjax.post.samples.solutions import Solutions
from seekjax.tasks import Problem, Problems
from seekjax.train.state import TrainState

MANY = 256  # problems that are counted


def data_lines(corpus: Corpus, unit: str, sequence: int, token_ids: int) -> list[str]:
    """Return the lines that state what is read and what was left out; `unit` is "samples"."""
    sources, long = [], 0
    for source in corpus.sources:
        sources.append(describe_source(source, unit))
        for file in source.files:
            long += file.get("too_long", 0)

    line = f"data: {', '.join(sources)}"
    if long:
        line += f"; {long:,} longer than data.sequence {sequence} left out"
    return [f"{line}; {token_ids} token ids", *corpus.notes()]


def describe_source(source: Source, unit: str) -> str:
    """Return the name and the size of a source."""
    if isinstance(source.train, Solutions):
        return f"{source.name} ({count_problems(source.train.problems)})"
    return f"{source.name} ({len(source.train):,} {unit}, {len(source.held_out):,} held out)"


def count_problems(problems: Problems) -> str:
    """Return the number of distinct problems, of a task that has few."""

    def side(first: int, number: int) -> list[Problem]:
        return [problems[index] for index in range(first, first + number)]

    number = len(distinct(side, MANY))
    return f"{number} distinct problems" if number < MANY else f"{MANY} problems or more"


def of_sources(metric: str, record: dict[str, float], sources: Sequence[str], digits: int) -> str:
    """Return "SOURCE 1.234, ..." from "METRIC/SOURCE" of a record, or "" for a single source."""
    if len(sources) < 2:
        return ""
    parts = [f"{name} {record[f'{metric}/{name}']:.{digits}f}" for name in sources]
    return ", ".join(parts)


def closing_lines(state: TrainState, folder: Path) -> list[str]:
    """Return the lines that end a run of a chat model."""
    return [
        f"checkpoint: {folder / 'checkpoints' / str(int(state.step))}",
        f"next: talk with it: seekjax chat {folder}",
    ]
