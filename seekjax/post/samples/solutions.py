"""What fine-tuning reads: files of conversations and solved problems of tasks, as a corpus of
samples with a training and a held-out side.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from seekjax.config import Config, SftConfig
from seekjax.data import Corpus, DataError, Source
from seekjax.post.samples.chats import (
    Form,
    Rows,
    Samples,
    asked,
    conversation,
    held_out_side,
    messages_of,
    open_rows,
)
from seekjax.tasks import Problems, Task, attempt, parse_task
from seekjax.tasks.answer import wrap

EPOCH, HELD_OUT = (
    1_000_000,
    20_000,
)  # problems of a task in an epoch, and held-out ones: both have no end
TRIED = 64  # of each task before a run starts


def load_samples(config: Config, form: Form) -> Corpus:
    """The sources of post.chats and post.tasks, with every row of the files read once and checked.
    Raises DataError.
    """
    post: SftConfig = config.post
    names = [*post.chats, *post.tasks]
    if not names:
        raise DataError(
            "there is nothing to learn from: name .jsonl files with --post.chats, or "
            "tasks with --post.tasks."
        )
    if len(set(names)) != len(names):
        raise DataError(
            f"a source is named twice in {', '.join(names)}: use post.weights to give one "
            "more weight."
        )
    weights = post.weights or (1.0,) * len(names)
    if len(weights) != len(names) or min(weights) <= 0:
        raise DataError(
            f"post.weights is {weights}: give a positive number for each of "
            f"{', '.join(names)}, or none."
        )
    limit = config.data.sequence + 1  # the last token is only predicted
    shares = [weight / sum(weights) for weight in weights]
    files = [
        _chats(name, share, form, limit, config.data.held_out, post.drop_long)
        for name, share in zip(post.chats, shares)
    ]
    return Corpus(
        (
            *files,
            *(
                _traces(name, share, form, limit, config)
                for name, share in zip(post.tasks, shares[len(files) :])
            ),
        )
    )


def _chats(
    name: str, weight: float, form: Form, limit: int, share: float, drop_long: bool
) -> Source:
    rows = open_rows(name, "post.chats")
    places, keys, long = [], [], 0
    for row, record in enumerate(rows):
        for which, sample in enumerate(conversation(rows, row, record, form)):
            if len(sample.tokens) <= limit:
                places.append((row, which))
                keys.append(asked(messages_of(record["messages"], name)))
            elif drop_long:
                long += 1
            else:
                raise too_long(rows.where(row), len(sample.tokens), limit)
    if not places:
        raise DataError(
            f"every conversation of {name} is longer than data.sequence {limit - 1}: make "
            "it longer."
        )
    held_out, places = held_out_side(keys, share), np.array(places)
    train, kept = (Samples(rows, form, places[side]) for side in (~held_out, held_out))
    return Source(
        name,
        weight,
        train,
        kept,
        ({**file_facts(rows), "train": len(train), "held_out": len(kept), "too_long": long},),
    )


def file_facts(rows: Rows) -> dict:
    """What the manifest of a run says of a file."""
    return {"name": rows.name, "bytes": rows.path.stat().st_size, "sha256": rows.sha256()}


def too_long(where: str, tokens: int, limit: int) -> DataError:
    return DataError(
        f"{where} has {tokens} tokens, and data.sequence {limit - 1} holds {limit}: make "
        "it longer, or leave such samples out with "
        "--post.drop-long True."
    )


@dataclass(frozen=True)
class Traces(Sequence):
    """Problems of a task on one side of the split and their solutions, by index, each a function of
    the seed and its index.
    """

    name: str
    problems: Problems
    language: str
    form: Form
    limit: int
    size: int
    drop_long: bool
    attempts: float

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        for number in count():  # one that is too long is replaced by one from beyond the end
            problem = self.problems[index + number * self.size]
            [sample] = self.form.samples(
                [
                    {"role": "user", "content": problem.prompt},
                    {"role": "assistant", "content": self.solution(index, problem)},
                ]
            )
            if len(sample.tokens) <= self.limit:
                return sample._asdict()
            if not self.drop_long or number == 1000:
                raise too_long(
                    f"the solution of {problem.prompt!r} ({self.name})",
                    len(sample.tokens),
                    self.limit,
                )

    def solution(self, index: int, problem) -> str:
        """Thought and answer, as rewards want them."""
        rng = random.Random(f"{problem.task}/{self.problems.seed}/{index}/solution")
        language = rng.choice(("en", "zh")) if self.language == "mixed" else self.language
        if rng.random() < self.attempts:
            return wrap(*attempt(self.problems.task, problem, rng, language))
        return wrap(*self.problems.task.solve(problem, rng, language))


def _traces(name: str, weight: float, form: Form, limit: int, config: Config) -> Source:
    task, levels = parse_task(name)
    sides = [_side(name, task, levels, form, limit, config, held_out) for held_out in (False, True)]
    tokens = [
        side[index]["tokens"].tobytes() for side in sides for index in range(TRIED)
    ]  # which also says at once what would fail later
    return Source(
        name,
        weight,
        *sides,
        (
            {
                "name": f"{2 * TRIED} problems of {name}",
                "sha256": hashlib.sha256(b"".join(tokens)).hexdigest(),
            },
        ),
    )


def _side(
    name: str,
    task: Task,
    levels: tuple[int, ...],
    form: Form,
    limit: int,
    config: Config,
    held_out: bool,
) -> Traces:
    problems = Problems(task, levels, held_out=held_out, seed=config.train.seed)
    return Traces(
        name,
        problems,
        config.post.language,
        form,
        limit,
        HELD_OUT if held_out else EPOCH,
        config.post.drop_long,
        config.post.attempts,
    )


def whole_rows(
    sides: Sequence[dict[str, np.ndarray]], rows: int, window: int, pad: int
) -> list[dict[str, np.ndarray]]:
    """Up to `rows` rows of whole samples, each in the first row with room, in an order of their
    own; the same ones every time.
    """
    filled: list[list[dict[str, np.ndarray]]] = []
    for index in np.random.default_rng(0).permutation(len(sides)):
        sample = sides[int(index)]
        home = next(
            (
                row
                for row in filled
                if sum(len(one["tokens"]) for one in row) + len(sample["tokens"]) <= window
            ),
            None,
        )
        if home is not None:
            home.append(sample)
        elif len(filled) < rows:
            filled.append([sample])
        else:
            break
    return [_row(row, window, pad) for row in filled]


def _row(samples: Sequence[dict[str, np.ndarray]], window: int, pad: int) -> dict[str, np.ndarray]:
    lengths = [len(sample["tokens"]) for sample in samples]
    rest = (0, window - sum(lengths))
    return {
        "tokens": np.pad(
            np.concatenate([np.zeros(0, np.int32), *(sample["tokens"] for sample in samples)]),
            rest,
            constant_values=pad,
        ),
        "trained": np.pad(
            np.concatenate([np.zeros(0, bool), *(sample["trained"] for sample in samples)]), rest
        ),
        "segments": np.pad(
            np.repeat(np.arange(1, len(samples) + 1, dtype=np.int32), lengths), rest
        ),
    }
