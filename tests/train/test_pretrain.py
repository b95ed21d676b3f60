"""What a pre-training run shows next to its loss: held-out figures, a prompt, pictures."""

import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from seekjax.config import DataConfig
from seekjax.data import Corpus, Source, load_corpus, load_tokenizer
from seekjax.placement import use_mesh
from seekjax.post.samples.batches import held_out_samples
from seekjax.train.plots import draw
from seekjax.train.pretrain import HeldOutText, PretrainingReport, first_prompt
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding.rules import sharding
from tests.fixtures import ONE_LAYER, write_rows
from tests.train.test_loop import small


def corpus_of(folder, *texts, held_out=0.5):
    file = write_rows(folder / "a.jsonl", [{"text": text} for text in texts])
    return load_corpus(DataConfig(sources=(str(file),), held_out=held_out))


@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_a_corpus_without_held_out_text_has_no_figures_and_says_so_once(tmp_path, held_out):
    config = small(tmp_path)
    corpus = corpus_of(tmp_path, "a single document", held_out=held_out)
    tokenizer = load_tokenizer(config.data, 320, corpus)

    def measure(*_):
        pytest.fail("there is nothing to measure")

    assert HeldOutText(config, corpus, tokenizer, measure)(None) == ({}, "")
    assert [note for note in corpus.notes() if "nothing is held out" in note]


def test_each_held_out_figure_says_of_what_it_is(tmp_path):
    """That of an evaluation of how many sequences, the closing one of how many bytes."""
    config = small(tmp_path, batch=4, eval_batches=2)
    corpus = corpus_of(tmp_path, *[f"the text of number {n} " * 9 for n in range(20)])
    tokenizer = load_tokenizer(config.data, 320, corpus)
    spec, state = SimpleNamespace(config=config), SimpleNamespace(averaged=None)

    def measure(*_):
        return {"nats": 3.0, "tokens": 2.0, "bytes": 4.0}

    with use_mesh(config.mesh):
        _, sentence = HeldOutText(config, corpus, tokenizer, measure)(state)
    assert sentence == "1.082 bits/byte, loss 1.500 on 8 sequences"

    (source,) = corpus.sources
    size = len("".join(source.held_out).encode())
    [line] = PretrainingReport(spec, corpus, tokenizer, measure).compare_with_xz(state)
    [named] = re.findall(r"held-out \S+, its first ([\d,]+) bytes: [\d.]+ bits/byte; xz -6", line)
    assert int(named.replace(",", "")) >= size


def test_how_a_batch_is_cut_does_not_change_what_is_measured(tmp_path):
    """An evaluation has eval_batches x batch sequences, of text and of samples."""
    corpus = corpus_of(tmp_path, *[f"the text of number {n} " * 9 for n in range(20)])
    answers = [{"tokens": np.full(40, n), "trained": np.ones(40, int)} for n in range(20)]
    samples = Corpus((Source("a", 1.0, train=[], held_out=answers, files=()),))

    def measured(micro):
        config = small(tmp_path, batch=4, micro_batch=micro, eval_batches=2)
        tokenizer = load_tokenizer(config.data, 320, corpus)
        (text,) = HeldOutText(config, corpus, tokenizer, lambda *_: {}).sources.values()
        (rows,) = held_out_samples(config, samples, pad=0).values()
        return [np.concatenate([batch["tokens"] for batch in part]) for part in (text, rows)]

    whole, cut = measured(0), measured(1)
    assert [len(rows) for rows in whole] == [8, 8]
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pictures_need_no_held_out_figures(tmp_path):
    write_rows(
        tmp_path / "metrics.jsonl",
        [
            {"split": "train", "step": 1, "loss": 2.0, "mtp_loss": 0.0},
            {"split": "held_out", "step": 1},
        ],
    )
    assert draw(tmp_path) == [tmp_path / "loss.png"]


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("\n  Call me Ishmael.\nSome years ago", "Call me Ishmael."),
        (
            "It was the best of times, it was the worst of times",
            "It was the best of times, it was the",
        ),
        ("愛" * 60, "愛" * 40),
        ("\x1b[2J", ""),
        ("\n", ""),
    ],
)
def test_a_sample_goes_on_from_the_beginning_of_held_out_text(text, prompt):
    corpus = Corpus((Source("book.txt", 1.0, train=["other"], held_out=[text], files=()),))
    assert first_prompt(corpus) == prompt


def test_built_in_sources_have_prompts_of_their_own():
    assert first_prompt(load_corpus(DataConfig(sources=("stories",)))) == ""


@pytest.mark.slow
def test_another_vocabulary_is_the_same_program(tmp_path):
    """The bytes of each token are an argument: as a constant, each corpus would compile anew."""
    config = replace(small(tmp_path), model=ONE_LAYER)
    with use_mesh(config.mesh):
        spec = RunSpec(config)
        tokens = jax.ShapeDtypeStruct((1, 4, 49), np.int32, sharding=sharding(BATCH))
        batch = {"tokens": tokens, "segments": tokens}
        step, _ = compile_steps(spec, np.arange(ONE_LAYER.vocab, dtype=np.int32))
        program = step.lower(spec.abstract_state(), batch).as_text()
    vocab = f"tensor<{ONE_LAYER.vocab}xi32>"
    assert re.search(f"%arg[0-9]+: {vocab}", program)
    assert not re.search(f"constant .*{vocab}", program)
