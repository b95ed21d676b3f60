"""Whatever processes read them, the batches of a run are the same batches."""

import json
from itertools import islice

import numpy as np
import pytest

from seekjax.config import DataConfig
from seekjax.data import DataError, load_corpus, load_tokenizer, train_batches
from seekjax.data.streams import ProcessBatches
from tests.fixtures import write_rows

ROWS = 12


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function from (process, processes) to the batches of that process."""
    file = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    write_rows(file, [{"text": f"{number:03d}" + "." * (number % 40)} for number in range(200)])
    config = DataConfig(sequence=32, tokenizer="byte", sources=(str(file),))
    corpus = load_corpus(config)
    tokenizer = load_tokenizer(config, 300, corpus)

    def open_stream(number, count):
        return train_batches(
            config,
            corpus,
            tokenizer,
            batch=ROWS,
            seed=0,
            process_index=number,
            process_count=count,
        )

    return lambda process, count: ProcessBatches(open_stream, ROWS, process, count)


def read(processes, count):
    """The next batches of all processes together."""
    parts = [list(islice(process, count)) for process in processes]
    return [np.concatenate([piece["tokens"] for piece in batch]) for batch in zip(*parts)]


def restored(processes, opened, count):
    """So many processes that go on where others are, as a checkpoint hands the positions over."""
    saved = json.loads(json.dumps([process.get_state() for process in processes]))
    after = [opened(number, count) for number in range(count)]
    for process, own in zip(after, saved if count == len(saved) else [None] * count):
        process.set_state(own or {"processes": saved})
    for process in processes:
        process.close()
    return after


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_reads_the_same_batches_with_any_number_of_processes(opened, first):
    processes = [opened(number, first) for number in range(first)]
    expected = read([opened(number, first) for number in range(first)], 10)
    batches = []
    for count in (4, 1, 3, 2, 2):
        batches += read(processes, 2)
        processes = restored(processes, opened, count)
    np.testing.assert_array_equal(batches, expected)


def test_what_cannot_be_divided_or_is_not_complete_is_refused(opened):
    positions = [opened(number, 4).get_state() for number in range(4)]
    saved = positions[0] | {"made_for": positions[0]["made_for"] | {"process": "0 of 5"}}
    with pytest.raises(DataError, match="12 rows at a time cannot be"):
        opened(0, 1).set_state({"processes": [saved]})
    with pytest.raises(DataError, match="lacks stream 3 of 4"):
        opened(0, 1).set_state({"processes": positions[:3]})
