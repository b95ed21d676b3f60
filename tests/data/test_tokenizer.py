"""Encoding loses nothing, counts every byte, never turns document text into a special token, and is
the same after saving."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.config import DataConfig
from seekjax.data import (
    Corpus,
    DataError,
    Source,
    load_corpus,
    load_tokenizer,
    read_tokenizer,
)
from seekjax.data.tokenizer import BOS, EOS, FIM_HOLE, PAD, _char_of, _training_text

VOCAB = 400


@pytest.fixture(scope="module", params=["byte", "bpe"])
def tokenizer(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEKJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("seekjax.data.tokenizer.TRAINING_BYTES", 50_000)
        config = DataConfig(sources=("arithmetic", "stories"), tokenizer=request.param)
        return load_tokenizer(config, VOCAB, load_corpus(config))


@settings(max_examples=60, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from([EOS, BOS, "<think>", "Mia had", " 12", "\r\n", "\x00", "ünï", "🎉"])
    ).map("".join)
)
def test_decoding_undoes_encoding_and_every_byte_is_counted(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.bytes_V[ids].sum() == len(text.encode())
    assert tokenizer.eos not in ids, "a document cannot end itself"


def test_special_tokens(tokenizer):
    assert (
        len(
            {
                tokenizer.bos,
                tokenizer.eos,
                tokenizer.pad,
                tokenizer.fim_prefix,
                tokenizer.fim_hole,
                tokenizer.fim_end,
            }
        )
        == 6
    )
    ids = tokenizer.encode(f"Mia{EOS}Tom", special=True)
    assert list(ids) == [*tokenizer.encode("Mia"), tokenizer.eos, *tokenizer.encode("Tom")]
    assert tokenizer.decode(ids) == "MiaTom"
    assert tokenizer.bytes_V.shape == (VOCAB,)
    assert tokenizer.bytes_V[tokenizer.eos] == 0
    assert len(tokenizer.encode("123")) == 3, "digits stand alone"


def test_marks_are_tokens_and_text(tokenizer, tmp_path):
    """Thinking must be seen: its marks are one token each, and decoding keeps them, also after
    saving."""
    ids = tokenizer.encode("<think>1</think>2", special=True)
    again = read_tokenizer(tokenizer.save(tmp_path), tokenizer.size)
    assert len(ids) == 4
    assert tokenizer.decode(ids) == again.decode(ids) == "<think>1</think>2"


def test_saving_then_reading_is_the_identity(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "run")
    for source in (path, path.parent):
        again = read_tokenizer(source, VOCAB)
        assert again.fingerprint() == tokenizer.fingerprint()
        assert (again.bytes_V == tokenizer.bytes_V).all()
        assert again.ends.begin == tokenizer.begin == tokenizer.eos
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ], "no temporary file stays"


def test_a_copy_in_another_process_encodes_the_same(tokenizer):
    text = f"a{EOS}<think>b"
    assert list(pickle.loads(pickle.dumps(tokenizer)).encode(text)) == list(tokenizer.encode(text))


def test_sizes(tokenizer):
    assert tokenizer.size in (266, VOCAB)


def test_a_byte_is_its_own_id():
    config = DataConfig(sources=("stories",), tokenizer="byte")
    tokenizer = load_tokenizer(config, 266, load_corpus(config))
    assert list(tokenizer.encode("añ\n")) == list("añ\n".encode())
    assert sorted(map(_char_of, range(256))) == sorted(
        tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )


def test_bpe_is_trained_once_for_a_corpus_and_size(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEKJAX_CACHE", str(tmp_path))
    monkeypatch.setattr("seekjax.data.tokenizer.TRAINING_BYTES", 20_000)
    config = DataConfig(sources=("stories",))
    corpus = load_corpus(config)
    first = load_tokenizer(config, 300, corpus)
    monkeypatch.setattr(
        "seekjax.data.tokenizer._train_bpe", lambda *_: pytest.fail("trained again")
    )
    assert load_tokenizer(config, 300, corpus).fingerprint() == first.fingerprint()
    with pytest.raises(pytest.fail.Exception):
        load_tokenizer(config, 301, corpus)


def test_a_run_without_a_break_is_cut_for_training():
    """Otherwise 200 kB of DNA take a minute, and 2 MB two hours."""
    prose = "Two words, " * 200 + "x" * 499 + " ok"
    dna = "ACGT" * 300
    source = Source("dna.txt", 1.0, train=[prose, dna, " " * 1001], held_out=[], files=())
    pieces = list(_training_text(Corpus((source,))))
    assert sorted(map(len, pieces)) == sorted([len(prose), 500, 500, 200, 500, 500, 1])
    assert prose in pieces


def damaged(folder, change):
    config = DataConfig(sources=("stories",), tokenizer="byte")
    path = load_tokenizer(config, 266, load_corpus(config)).save(folder)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def remove_tokens(content, *names):
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] not in names
    ]


def test_bad_tokenizers_are_refused(tmp_path):
    corpus = load_corpus(DataConfig(sources=("stories",)))
    config = DataConfig(sources=("stories",), tokenizer="byte")
    with pytest.raises(
        DataError, match=r"266 tokens but model.vocab=200; set model.vocab to at least 266"
    ):
        load_tokenizer(config, 200, corpus)
    with pytest.raises(DataError, match=r"data.tokenizer=bpe needs at least 266"):
        load_tokenizer(replace(config, tokenizer="bpe"), 200, corpus)
    with pytest.raises(
        DataError, match=r"nowhere does not exist; data.tokenizer must be bpe, byte or the path"
    ):
        load_tokenizer(replace(config, tokenizer=str(tmp_path / "nowhere")), 300, corpus)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"not a readable tokenizer.json"):
        read_tokenizer(tmp_path, 300)
    with pytest.raises(DataError, match=f"no token {EOS}"):
        read_tokenizer(damaged(tmp_path, lambda content: remove_tokens(content, EOS)), 300)


def test_a_tokenizer_without_padding_or_fim_is_usable(tmp_path):
    tokenizer = read_tokenizer(
        damaged(tmp_path, lambda content: remove_tokens(content, PAD, FIM_HOLE)), 300
    )
    assert tokenizer.pad == tokenizer.eos
    assert tokenizer.fim_hole is None


def test_settings_that_change_texts_are_switched_off(tmp_path):
    def change(content):
        content["truncation"] = {
            "direction": "Right",
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        content["padding"] = {
            "strategy": {"Fixed": 2**31},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": PAD,
        }
        content["model"]["dropout"] = 0.5
        for token in content["added_tokens"]:
            token["lstrip"] = token["rstrip"] = True

    tokenizer = read_tokenizer(damaged(tmp_path, change), 300)
    text = "a long text with <think> in it"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    again = read_tokenizer(tokenizer.save(tmp_path / "run"), 300)
    assert again.fingerprint() == tokenizer.fingerprint()


def split(pattern):
    part = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {"type": "Sequence", "pretokenizers": [part, byte_level]}


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
FOREIGN = {
    "a decoder of words": ({"decoder": {"type": "Fuse"}}, "not a byte-level tokenizer"),
    "no decoder": ({"decoder": None}, "not a byte-level tokenizer"),
    "texts made longer": (
        {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 40}},
        "its normalizer is not a sequence of at most 16",
    ),
    "another normal form": ({"normalizer": {"type": "NFC"}}, "its normalizer NFC is not one of"),
    "blanks dropped": ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "its pre_tokenizer"),
    "a blank added": (
        {"pre_tokenizer": {**split({"String": "x"})["pretokenizers"][1], "add_prefix_space": True}},
        "changes texts: it encodes",
    ),
    "an exponential pattern": ({"pre_tokenizer": split({"Regex": "(a+)+b"})}, "repeats a group"),
    "an unknown entry": ({"hooks": []}, "the unknown entry"),
    "ids beyond memory": ({"model": {"vocab": {"a": 2**31}, "merges": []}}, "an id is not below"),
    "one id twice": ({"model": {"vocab": {"a": 1, "b": 1}, "merges": []}}, "two tokens have one"),
    "bytes that are missing": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
        "changes texts: it encodes",
    ),
    "another kind of model": ({"model": {"type": "Unigram"}}, "its model is not a BPE"),
    "tokens that are no texts": ({"added_tokens": [{"id": 1}]}, "an added token is not a text"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_changes_texts_or_has_no_bound_is_refused(tmp_path, case):
    parts, message = FOREIGN[case]
    path = damaged(tmp_path, lambda content: content.update(parts))
    with pytest.raises(DataError, match=message) as raised:
        read_tokenizer(path, 300)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["{", "[]", "\x00", "[" * 100_000, "[]," * 100_000, '{"version": "1.0"}']
)
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match=r"is not a readable tokenizer.json") as raised:
        read_tokenizer(tmp_path, 300)
    assert "\n" not in str(raised.value)


def test_a_failure_of_the_library_is_a_sentence(tmp_path, monkeypatch):
    """It panics beside Exception, where a pattern takes too many attempts."""
    tokenizer = read_tokenizer(damaged(tmp_path, lambda content: None), 300)
    panic = type("PanicException", (BaseException,), {})

    def encode(*_, **__):
        raise panic("retry limit over")

    monkeypatch.setattr(tokenizer, "_backend", type("", (), {"encode": encode}))
    with pytest.raises(DataError, match="cannot encode a text of 3 characters"):
        tokenizer.encode("abc")


def test_half_a_character_is_a_sentence(tmp_path):
    tokenizer = load_tokenizer(DataConfig(tokenizer="byte"), 300, None)
    with pytest.raises(DataError, match="half a character"):
        tokenizer.encode("\ud83d")
