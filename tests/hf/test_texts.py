"""An exported run writes the same in transformers: first token, text and end."""

import json
from dataclasses import replace

import pytest

from seekjax.commands.convert import export_run
from seekjax.commands.new_run import write_run
from seekjax.config import Config, DataConfig
from seekjax.data import load_tokenizer, read_tokenizer
from seekjax.data.chat import BUILT_IN, compile_chat, load_chat
from seekjax.data.tokenizer import BOS
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.open import on_mesh, open_model
from sharding.mesh import MeshConfig
from tests.fixtures import PLAIN
from tests.hf.small import V3, drawn

MODEL = replace(V3, vocab=300, layers=1, mtp_depth=0, dense_layers=1)
TALK = [{"role": "user", "content": "1+1?"}]
NEW = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run, the same as a run on chats of version 0.1, and what both are exported to."""
    tokenizer = load_tokenizer(DataConfig(tokenizer="byte"), MODEL.vocab, None)
    home = tmp_path_factory.mktemp("texts")
    variables = drawn(MODEL)
    with on_mesh(MeshConfig(data=1)):
        for name in ("run", "old"):
            config = Config(model=MODEL, kernel=PLAIN, mesh=MeshConfig(data=1), out=home / name)
            (home / name).mkdir()
            write_run(home / name, config, variables)
            tokenizer.save(home / name)
        for name in ("tokenizer_config.json", "generation_config.json"):
            (home / "old" / name).unlink()
        compile_chat(BUILT_IN["v3"]).save(home / "old")
        for name in ("run", "old"):
            export_run(home / name, home / f"{name}-published", "f32")
    return home


@pytest.mark.parametrize("name", ["run", "old"])
def test_transformers_begins_and_ends_texts_alike(folders, name):
    transformers = pytest.importorskip("transformers")
    run, published = folders / name, folders / f"{name}-published"
    ours = read_tokenizer(published, MODEL.vocab)
    theirs = transformers.AutoTokenizer.from_pretrained(published)
    assert theirs("def f():").input_ids == [ours.begin, *ours.encode("def f():")]
    assert theirs.eos_token_id == ours.stops[0]

    # chats as the run was trained with them
    chat = load_chat(run, read_tokenizer(run, MODEL.vocab))
    rendered = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    assert rendered == chat.encode(ours, TALK)
    assert load_chat(published, ours).encode(ours, TALK) == rendered
    assert chat.bos == (BOS if name == "old" else ours.name_of(ours.eos))
    assert ours.fingerprint() == read_tokenizer(run, MODEL.vocab).fingerprint()

    config = json.loads((published / "config.json").read_text())
    generation = json.loads((published / "generation_config.json").read_text())
    for name in ("bos_token_id", "eos_token_id"):
        assert config[name] == generation[name]
    assert config["bos_token_id"] == ours.begin


@pytest.mark.slow
def test_transformers_writes_the_same_text(peers, folders):
    transformers = pytest.importorskip("transformers")
    published = folders / "run-published"
    theirs = transformers.AutoTokenizer.from_pretrained(published)
    model, _ = peers.reread("v3", published)
    prompt = theirs("def ", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=NEW, do_sample=False)
    expected = theirs.decode(written[0], skip_special_tokens=True)

    with on_mesh(MeshConfig(data=1)):
        opened = open_model(folders / "run")
        generator = Generator(opened.model, opened.variables, opened.kernel)
        ids = [opened.begin, *opened.tokenizer.encode("def ")]
        sampling = Sampling(max_new=NEW, temperature=0.0, stop_ids=opened.tokenizer.stops)
        [completion] = generator([ids], sampling)
    assert opened.tokenizer.decode([*ids, *completion.ids]) == expected
