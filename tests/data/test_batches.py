"""Batches resume exactly whatever the workers, are shared disjointly, follow the weights, and hold
the documents they should."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.config import DataConfig
from seekjax.data import DataError, eval_batches, load_corpus, load_tokenizer, train_batches
from seekjax.data.tokenizer import EOS
from tests.fixtures import write_rows

CONFIG = DataConfig(sequence=32, tokenizer="byte")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two sources of documents of 4 to 200 bytes that say where they come from; some spell a
    special token."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, count in (("a", 150), ("b", 40)):
        texts = [
            f"{name}{index:03d}{EOS[: index % 2 * 99]}" + "." * (index * 37 % 157)
            for index in range(count)
        ]
        write_rows(folder / f"{name}.jsonl", [{"text": text} for text in texts])
    config = replace(
        CONFIG,
        sources=(str(folder / "a.jsonl"), str(folder / "b.jsonl")),
        weights=(3.0, 1.0),
        held_out=0.2,
    )
    corpus = load_corpus(config)
    return config, corpus, load_tokenizer(config, 300, corpus)


def start(made, batch=4, seed=0, process=(0, 1), **changes):
    config, corpus, tokenizer = made
    return train_batches(
        replace(config, **changes),
        corpus,
        tokenizer,
        batch=batch,
        seed=seed,
        process_index=process[0],
        process_count=process[1],
    )


def equal(first, second):
    return len(first) == len(second) and all(
        (a[key] == b[key]).all() for a, b in zip(first, second) for key in a
    )


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["split", "fit"])
@settings(max_examples=8, deadline=None)
@given(stop=st.integers(0, 60), fim=st.sampled_from([0.0, 0.5]), batch=st.sampled_from([2, 4]))
def test_resuming_is_exact_and_independent_of_the_batch_size(made, packing, stop, fim, batch):
    unbroken = start(made, packing=packing, fim_rate=fim)
    list(islice(unbroken, stop))
    state = json.loads(json.dumps(unbroken.get_state()))
    expected = list(islice(unbroken, 20))
    resumed = start(made, batch, packing=packing, fim_rate=fim)
    resumed.set_state(state)
    rows = np.concatenate([piece["tokens"] for piece in islice(resumed, 20 * 4 // batch)])
    assert (rows == np.concatenate([piece["tokens"] for piece in expected])).all()
    unbroken.close(), resumed.close()


@pytest.mark.long
@pytest.mark.slow
def test_the_number_of_workers_may_change_on_resumption(made):
    """0 -> 2 -> 1 workers against a run that was never interrupted."""
    expected = list(islice(start(made, fim_rate=0.5), 30))
    read, state = [], None
    for workers in (0, 2, 1):
        batches = start(made, fim_rate=0.5, workers=workers)
        if state:
            batches.set_state(json.loads(state))
        read += list(islice(batches, 10))
        state = json.dumps(batches.get_state())
        batches.close()
    assert equal(read, expected)


@pytest.mark.parametrize("packing", ["split", "fit"])
def test_batches_are_what_the_contract_says(made, packing):
    batch = next(start(made, packing=packing))
    assert set(batch) == {"tokens", "segments"}
    for array in batch.values():
        assert array.shape == (4, 33)
        assert array.dtype == np.int32
    if packing == "split":
        assert batch["segments"].min() == 1, "no padding"


def names_read(made, batches, count):
    """The name of every document that begins in `count` batches, in order; a name that a row cuts
    is missing."""
    texts = (
        made[2].decode(tokens[segments == segment])
        for batch in islice(batches, count)
        for tokens, segments in zip(batch["tokens"], batch["segments"])
        for segment in range(1, segments.max() + 1)
    )
    return [text[:4] for text in texts if text[:1] in ("a", "b") and len(text) >= 4]


def test_processes_read_disjoint_documents_and_miss_none(made):
    train = [text[:4] for source in made[1].sources for text in source.train]
    shares = [
        set(names_read(made, start(made, process=(index, 3), batch=3, packing="fit"), 40))
        for index in range(3)
    ]
    assert all(shares)
    assert not shares[0] & shares[1]
    assert not shares[0] & shares[2]
    assert not shares[1] & shares[2]
    everything = names_read(made, start(made, packing="fit"), 300)
    assert set(everything) == set(train)


def test_sources_are_drawn_by_weight(made):
    names = names_read(made, start(made, packing="fit"), 400)
    assert 2.7 < sum(name < "b" for name in names) / sum(name > "b" for name in names) < 3.3


@pytest.mark.slow
def test_the_seed_and_the_epoch_decide_the_order(made):
    epoch = len(made[1].sources[0].train)
    first, second, other = (
        [name for name in names_read(made, start(made, sequence=4000, seed=seed), 4) if name < "b"]
        for seed in (0, 0, 1)
    )
    assert first == second != other
    first, later = first[: epoch - 20], first[epoch : 2 * epoch - 20]
    assert len(set(first) & set(later)) > 50
    assert [name for name in first if name in later] != [name for name in later if name in first]


def test_fim_moves_the_middle_to_the_end_and_loses_nothing(made):
    _, corpus, tokenizer = made
    train = {text for source in corpus.sources for text in source.train}
    changed = documents = 0
    for batch in islice(start(made, packing="fit", fim_rate=0.5, sequence=200), 40):
        for tokens, segments in zip(batch["tokens"], batch["segments"]):
            for segment in range(1, segments.max() + 1):
                *ids, eos = tokens[segments == segment]
                assert eos == tokenizer.eos
                if ids and ids[0] == tokenizer.fim_prefix:
                    hole, end = ids.index(tokenizer.fim_hole), ids.index(tokenizer.fim_end)
                    ids, changed = ids[1:hole] + ids[end + 1 :] + ids[hole + 1 : end], changed + 1
                documents += 1
                assert tokenizer.decode(ids) in train
    assert 0.4 < changed / documents < 0.6


def test_bad_settings_are_refused(made):
    with pytest.raises(
        DataError,
        match=r"batch of 4 rows cannot be shared by 3 processes; make train.batch a multiple of 3",
    ):
        start(made, process=(0, 3))
    state = start(made).get_state()
    for name, value in {"sequence": 16, "packing": "fit", "fim_rate": 0.5}.items():
        with pytest.raises(
            DataError,
            match=rf"data belongs to other settings .data.{name} was .* is {value}.: ",
        ):
            start(made, **{name: value}).set_state(state)
    with pytest.raises(DataError, match=r"processes, 0 of 1 before and 1 of 2 now"):
        start(made, process=(1, 2)).set_state(state)


def test_eval_batches_are_held_out_fixed_and_the_same_for_any_number_of_processes(made):
    config, corpus, tokenizer = made
    batches = eval_batches(
        replace(config, packing="fit", fim_rate=0.5), corpus, tokenizer, batch=4, count=3
    )
    assert len(batches) == 3
    assert batches[0]["tokens"].shape == (4, 33)
    assert equal(batches, eval_batches(config, corpus, tokenizer, batch=4, count=3))
    halves = [
        eval_batches(
            config, corpus, tokenizer, batch=4, count=3, process_index=index, process_count=2
        )
        for index in range(2)
    ]
    assert equal(
        batches, [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves)]
    )
    held_out = {text[:4] for source in corpus.sources for text in source.held_out}
    assert (
        set(names_read(made, iter(eval_batches(config, corpus, tokenizer, batch=4, count=10)), 10))
        <= held_out
    )
    only = names_read(
        made,
        iter(
            eval_batches(config, corpus, tokenizer, batch=4, count=3, source=corpus.sources[1].name)
        ),
        3,
    )
    assert only
    assert all(name.startswith("b") for name in only)


def test_a_file_that_vanishes_during_training_is_named(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(100)])
    config = replace(CONFIG, sources=(str(tmp_path),))
    corpus = load_corpus(config)
    path.unlink()
    with pytest.raises(DataError, match=r"a.jsonl cannot be read"):
        next(start((config, corpus, load_tokenizer(config, 300, corpus))))


def test_nothing_held_out_is_refused(made):
    config = replace(made[0], held_out=0.0)
    corpus = load_corpus(config)
    with pytest.raises(DataError, match=r"has no held-out documents; set data.held_out above 0"):
        eval_batches(config, corpus, made[2], batch=4, count=1)
