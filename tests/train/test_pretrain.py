"""What a pre-training run shows next to its loss: held-out figures, a prompt, pictures."""

import pytest

from seekjax.config import DataConfig
from seekjax.data import load_corpus, load_tokenizer
from seekjax.train.plots import draw
from seekjax.train.pretrain import HeldOutText, first_prompt
from tests.fixtures import write_rows
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
def test_a_sample_goes_on_from_the_beginning_of_held_out_text(tmp_path, text, prompt):
    corpus = corpus_of(tmp_path, text, text)
    source = corpus.sources[0]
    own = source.held_out if source.held_out[0] == text else source.train
    swapped = type(source)(source.name, 1.0, source.train, own, ())
    assert first_prompt(type(corpus)((swapped,))) == prompt


def test_built_in_sources_have_prompts_of_their_own():
    assert first_prompt(load_corpus(DataConfig(sources=("stories",)))) == ""
