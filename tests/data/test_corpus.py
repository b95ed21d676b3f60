"""The split is fixed and disjoint; settings that make no sense are refused; generated documents are
what they claim."""

import json
import re

import pytest

from seekjax.config import DataConfig
from seekjax.data import DataError, load_corpus
from tests.fixtures import write_rows


@pytest.fixture(scope="module")
def stdlib():
    return load_corpus(DataConfig())


def test_stdlib_is_megabytes_of_modules(stdlib):
    [source] = stdlib.sources
    names = {file["name"] for file in source.files}
    assert {"argparse.py", "json/decoder.py"} <= names
    assert not any("test" in name.split("/")[:-1] for name in names)
    assert 2e6 < sum(file["bytes"] for file in source.files) < 2e7
    assert len(source.train) + len(source.held_out) == len(names)
    assert 0.02 < len(source.held_out) / len(names) < 0.1


def test_the_split_is_disjoint_and_fixed(stdlib):
    [source] = stdlib.sources
    assert not set(source.train) & set(source.held_out)
    again = load_corpus(DataConfig())
    assert list(again.sources[0].held_out) == list(source.held_out)
    assert again.fingerprint() == stdlib.fingerprint()


def test_the_manifest_is_json_and_says_what_was_read(stdlib):
    manifest = json.loads(json.dumps(stdlib.manifest()))
    assert manifest == stdlib.manifest()
    file = manifest["sources"][0]["files"][0]
    assert set(file) == {"name", "bytes", "sha256", "train", "held_out"}
    assert len(file["sha256"]) == 64


def test_a_corpus_may_move_but_not_change(tmp_path):
    def fingerprint(folder, text):
        (tmp_path / folder).mkdir()
        rows = [{"text": f"{text} {index}"} for index in range(30)]
        write_rows(tmp_path / folder / "a.jsonl", rows)
        return load_corpus(DataConfig(sources=(str(tmp_path / folder),))).fingerprint()

    assert fingerprint("one", "x") == fingerprint("two", "x") != fingerprint("three", "y")


def test_copies_of_a_document_stay_on_one_side(tmp_path):
    texts = [f"text {index % 40}" for index in range(200)]
    write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    [source] = load_corpus(DataConfig(sources=(str(tmp_path),), held_out=0.3)).sources
    assert not set(source.train) & set(source.held_out)
    assert len(source.train) + len(source.held_out) == 200


def test_few_documents_still_have_both_sides(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    for share in (0.001, 0.999):
        [source] = load_corpus(DataConfig(sources=(str(tmp_path),), held_out=share)).sources
        assert len(source.train) == len(source.held_out) == 1


def test_a_file_in_two_sources_is_named(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    corpus = load_corpus(DataConfig(sources=(str(tmp_path), str(file))))
    assert corpus.left_out() == [f"{file}: has 1 file of another source too ({file})"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ("stdlb",)}, "did you mean 'stdlib'"),
        ({"sources": ()}, "data.sources is empty"),
        ({"sources": ("stories", "stories")}, "names a source twice"),
        ({"sources": ("tests/fixtures.py", "./tests/../tests/fixtures.py")}, "a source twice, as"),
        ({"sources": ("stories", "arithmetic"), "weights": (1.0,)}, "1 numbers for 2 sources"),
        ({"sources": ("stories", "arithmetic"), "weights": (1.0, 0.0)}, "must be positive"),
        ({"sources": ("stories",), "held_out": 1.0}, "held_out=1.0 is not a share"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        load_corpus(DataConfig(**settings))


def test_an_unknown_source_is_named():
    with pytest.raises(DataError, match="no source 'stdlib'; it has stories"):
        load_corpus(DataConfig(sources=("stories",))).source("stdlib")


def test_arithmetic_is_right_and_disjoint():
    corpus = load_corpus(DataConfig(sources=("arithmetic",), held_out=0.2))
    [source] = corpus.sources
    for text in (
        *(source.train[index] for index in range(300)),
        *(source.held_out[index] for index in range(50)),
    ):
        problem, *_, answer = text.splitlines()
        a, sign, b = re.fullmatch(r"(\d+)([-+*])(\d+)", problem).groups()
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(
            answer[1:]
        )
    assert source.train[5] == source.train[5] != source.train[6]
    train, held_out = (
        {side[index] for index in range(2000)} for side in (source.train, source.held_out)
    )
    assert not train & held_out
