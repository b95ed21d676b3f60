"""Broken and malicious checkpoints: each refused by one sentence that names the trouble, in little
memory, with nothing left behind."""

import json
import pickle
import re
import shutil
import sys
import tracemalloc

import pytest

from seekjax.commands.cli import main
from seekjax.errors import WeightsError
from seekjax.hf.files import INDEX
from seekjax.hf.load import load
from seekjax.hf.save import save
from tests.hf.small import V3, WIDE, drawn, pack, unpack

FILE, FIRST = "model.safetensors", "model.layers.0.input_layernorm.weight"
ROPE = {
    "type": "yarn",
    "factor": 4,
    "original_max_position_embeddings": 16,
    "mscale": 1,
    "mscale_all_dim": 1,
}
FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint in one file, one in several, and one in FP8."""
    folder = tmp_path_factory.mktemp("whole")
    save(folder / "one", V3, drawn(V3), "f32")
    save(folder / "many", V3, drawn(V3), "f32", file_bytes=3000)
    save(folder / "fp8", WIDE, drawn(WIDE), "fp8")
    return folder


def header(edit):
    """Break the header of the one file."""

    def breaking(folder):
        table, data = unpack(folder / FILE)
        edited = edit(table)
        pack(folder / FILE, table if edited is None else edited, data)

    return breaking


def entry(**fields):
    return header(lambda table: table[FIRST].update(fields))


def raw(edit):
    """Break the bytes of the one file."""
    return lambda folder: (folder / FILE).write_bytes(edit((folder / FILE).read_bytes()))


def text(content):
    return header(lambda _: content)


def bomb(bytes_):
    """A file of zeros that claims a header of so many bytes."""

    def breaking(folder):
        with open(folder / FILE, "wb") as file:
            file.write(bytes_.to_bytes(8, "little"))
            file.truncate(2**33)

    return breaking


def config(**fields):
    def breaking(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return breaking


def without(name):
    def breaking(folder):
        table = json.loads((folder / "config.json").read_text())
        del table[name]
        (folder / "config.json").write_text(json.dumps(table))

    return breaking


def index(edit):
    def breaking(folder):
        table = json.loads((folder / INDEX).read_text())
        edited = edit(table)
        (folder / INDEX).write_text(json.dumps(table if edited is None else edited))

    return breaking


def send(name, file):
    return index(lambda table: table["weight_map"].update({name: file}))


def renamed(old, new):
    return header(
        lambda table: {new if name == old else name: value for name, value in table.items()}
    )


def pickled(folder):
    (folder / FILE).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))


def overlapping(table):
    a, b = (name for name in list(table)[1:3])
    table[b] = table[a]


def swapped_copy(table):
    table["model.layers.2.embed_tokens.weight"], table["model.layers.2.shared_head.head.weight"] = (
        table["model.layers.2.shared_head.head.weight"],
        table["model.layers.2.embed_tokens.weight"],
    )


def first_values(name, value):
    """Overwrite the first value of a tensor."""

    def breaking(folder):
        table, data = unpack(folder / FILE)
        at = table[name]["data_offsets"][0]
        pack(folder / FILE, table, data[:at] + value + data[at + len(value) :])

    return breaking


def header_and_zeros(folder):
    table, data = unpack(folder / FILE)
    pack(folder / FILE, table, bytes(len(data)))


def scales(value):
    """Overwrite the first scale of an FP8 file."""

    def breaking(folder):
        table, data = unpack(folder / FILE)
        at = table["model.layers.0.mlp.down_proj.weight_scale_inv"]["data_offsets"][0]
        pack(folder / FILE, table, data[:at] + value + data[at + 4 :])

    return breaking


CASES = {
    # the file
    "empty": ("one", raw(lambda x: b""), "cut short: it has 0 bytes"),
    "seven bytes": ("one", raw(lambda x: x[:7]), "cut short"),
    "cut within the header": ("one", raw(lambda x: x[:100]), "cut short within its header"),
    "cut within the tensors": ("one", raw(lambda x: x[:-100]), "would end at byte"),
    "bytes behind": ("one", raw(lambda x: x + bytes(9)), "9 bytes that belong to no tensor"),
    "header bomb, absurd": ("one", bomb(2**63 + 1), "claims a header of 9223372036854775809 bytes"),
    "header bomb, that fits": ("one", bomb(2**30), "claims a header"),
    "header of brackets": ("one", text(b'{"a":' + b"[" * 10**6), "mostly brackets"),
    "header of empty lists": (
        "one",
        text(b'{"a":[' + b"[]," * 10**6 + b"[]]}"),
        "mostly brackets",
    ),
    "header no JSON": ("one", text(b"{'dtype'}" * 9), "JSON cannot be read"),
    "header not UTF-8": ("one", text(b'{"\xff\xfe": 1}'), "JSON cannot be read"),
    "header an integer of a million digits": (
        "one",
        text(b'{"a": ' + b"9" * 10**6 + b"}"),
        "JSON cannot be read",
    ),
    "header a list": ("one", text(b"[1, 2, 3, 4, 5, 6, 7]"), "not hold a JSON object"),
    "one name twice": ("one", text(b'{"a": 1, "a": 2}'), "uses one name twice"),
    "metadata a number": ("one", header(lambda t: t.update(__metadata__={"a": 1})), "metadata"),
    "entry without shape": (
        "one",
        header(lambda t: t[FIRST].pop("shape") and None),
        "not described by",
    ),
    "entry a text": ("one", header(lambda t: t.update({FIRST: "F32"})), "not described by"),
    "type unknown": ("one", entry(dtype="I4"), "has type I4; seekjax reads F32"),
    "type a list": ("one", entry(dtype=["F32"]), "has type"),
    "shape negative": ("one", entry(shape=[-6]), "not have a valid shape"),
    "shape of a billion": (
        "one",
        entry(shape=[2**39, 2**39]),
        "takes 24 bytes, its shape and type",
    ),
    "shape true": ("one", entry(shape=[True]), "not have a valid shape"),
    "shape of many dimensions": ("one", entry(shape=[1] * 900), "not have a valid shape"),
    "offsets beyond the file": (
        "one",
        entry(data_offsets=[2**40, 2**40 + 24]),
        "would end at byte",
    ),
    "offsets backwards": ("one", entry(data_offsets=[24, 0]), "takes -24 bytes"),
    "offsets fractional": ("one", entry(data_offsets=[0.0, 24.0]), "not have valid data_offsets"),
    "offsets negative": ("one", entry(data_offsets=[-24, 0]), "not have valid data_offsets"),
    "tensors overlap": ("one", header(overlapping), "overlaps the tensor before it"),
    "a gap": ("one", header(lambda t: t.pop(FIRST) and None), "leaves a gap|belong to no tensor"),
    "a pickle": ("one", pickled, "only pickled weights"),
    "a pickle under another name": (
        "one",
        lambda folder: (folder / FILE).write_bytes(pickle.dumps({"a": list(range(99))})),
        "claims a header",
    ),
    "a folder in place of the file": (
        "one",
        lambda folder: ((folder / FILE).unlink(), (folder / FILE).mkdir()),
        "not a regular file",
    ),
    "no weights": ("one", lambda folder: (folder / FILE).unlink(), "holds no .safetensors file"),
    # the index
    "index leads up": (
        "many",
        send(FIRST, "../one/model.safetensors"),
        "only .safetensors files of its own folder",
    ),
    "index absolute": (
        "many",
        send(FIRST, "/etc/passwd"),
        "only .safetensors files of its own folder",
    ),
    "index with a drive": (
        "many",
        send(FIRST, "C:x.safetensors"),
        "only .safetensors files of its own folder",
    ),
    "index names a pickle": (
        "many",
        send(FIRST, "weights.bin"),
        "only .safetensors files of its own folder",
    ),
    "index names a missing file": (
        "many",
        send(FIRST, "model-9.safetensors"),
        "model-9.safetensors, which is not there",
    ),
    "index names the wrong file": (
        "many",
        send(FIRST, "model-00002-of-00003.safetensors"),
        f"1 tensors are not in the file.*{FIRST}",
    ),
    "index lacks a tensor": (
        "many",
        index(lambda t: t["weight_map"].pop(FIRST) and None),
        f"1 tensors of the files are not in the index: {FIRST}",
    ),
    "index without map": ("many", index(lambda t: {"a": 1}), "has no weight_map"),
    "index maps to numbers": (
        "many",
        index(lambda t: {"weight_map": {"a": 1}}),
        "has no weight_map",
    ),
    "index no JSON": (
        "many",
        lambda folder: (folder / INDEX).write_text("{" * 20),
        "JSON cannot be read|brackets",
    ),
    "a file is gone": (
        "many",
        lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(),
        "which is not there",
    ),
    # the tensors
    "tensors missing, unknown, misshapen": (
        "one",
        header(
            lambda t: {
                {FIRST: "evil\x1b[31m", "lm_head.weight": "lm_head"}.get(n, n): v
                | {"shape": [3, 2]}
                if n == "model.norm.weight"
                else v
                for n, v in t.items()
            }
        ),
        r"2 missing: .*lm_head.weight.*; 1 of another shape.*model.norm.weight \[3, 2\] "
        r"instead of \[6\]; 2 unknown: evil\\x1b\[31m, lm_head",
    ),
    "prediction module incomplete": (
        "one",
        renamed("model.layers.2.eh_proj.weight", "model.layers.2.other"),
        "1 missing: model.layers.2.eh_proj.weight",
    ),
    "prediction module with its own head": (
        "one",
        header(swapped_copy),
        "differs from model.embed_tokens.weight: seekjax shares it",
    ),
    "FP8 that config.json does not tell of": (
        "fp8",
        without("quantization_config"),
        "in FP8 against config.json",
    ),
    "FP8 without scales": (
        "fp8",
        renamed("model.layers.0.mlp.down_proj.weight_scale_inv", "scale"),
        "1 in FP8 without scales",
    ),
    "scales misshapen": (
        "fp8",
        header(
            lambda t: (
                t["model.layers.0.mlp.down_proj.weight_scale_inv"].update(shape=[*[1, 4][:1], 2])
                or t["model.layers.0.mlp.down_proj.weight_scale_inv"].update(shape=[4])
            )
        ),
        "takes|scales of another shape",
    ),
    "scales not a number": ("fp8", scales(b"\x00\x00\xc0\x7f"), "not positive numbers"),
    "scales negative": ("fp8", scales(b"\x00\x00\x80\xbf"), "not positive numbers"),
    "a norm of NaN": ("one", first_values(FIRST, b"\x00\x00\xc0\x7f"), "not numbers"),
    "a matrix of infinity": (
        "one",
        first_values("model.layers.0.mlp.up_proj.weight", b"\0\0\x80\x7f"),
        "not numbers",
    ),
    "a file that was never filled": (
        "one",
        header_and_zeros,
        f"{FIRST} holds only zeros: the file was never filled",
    ),
    # config.json
    "no config": ("one", lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "config no JSON": (
        "one",
        lambda folder: (folder / "config.json").write_text("model_type: deepseek_v3"),
        "JSON cannot be read",
    ),
    "config too large": (
        "one",
        lambda folder: (folder / "config.json").write_bytes(b" " * 2**21),
        "at most 1048576 are read",
    ),
    "another model": (
        "one",
        config(model_type="deepseek_v32"),
        "model_type deepseek_v32: seekjax reads deepseek_v2, deepseek_v3, kimi_k2",
    ),
    "a field nobody knows": (
        "one",
        config(index_topk=2048, hc_mult=4),
        "does not know: hc_mult, index_topk",
    ),
    "a missing field": ("one", without("kv_lora_rank"), "lacks kv_lora_rank"),
    "biases": ("one", config(attention_bias=True), "attention_bias True"),
    "tied embeddings": ("one", config(tie_word_embeddings=True), "tie_word_embeddings True"),
    "another activation": ("one", config(hidden_act="gelu"), "hidden_act gelu"),
    "every second layer": ("one", config(moe_layer_freq=2), "moe_layer_freq 2"),
    "a size as text": ("one", config(hidden_size="6"), "hidden_size 6: it must be a whole number"),
    "a size of zero": (
        "one",
        config(num_attention_heads=0, num_key_value_heads=0),
        "model.heads is 0",
    ),
    "a billion layers": (
        "one",
        config(num_hidden_layers=10**9),
        "10.?000.?000.?0",
    ),
    "a billion experts": (
        "one",
        config(n_routed_experts=10**9),
        "10.?000.?000.?0",
    ),
    "many layers of one expert": (
        "one",
        config(
            num_hidden_layers=9999,
            n_routed_experts=1,
            num_experts_per_tok=1,
            n_group=1,
            topk_group=1,
            num_nextn_predict_layers=0,
        ),
        "describes 9999 layers, 9998 of them with 1 experts, but there are only",
    ),
    "many prediction modules": (
        "one",
        config(num_nextn_predict_layers=24_000),
        "24.?00",
    ),
    "a family that is a list": ("one", config(model_type=[]), r"has model_type \[\]"),
    "groups that do not divide": ("one", config(n_group=3), "cannot be split into"),
    "another scoring": (
        "one",
        config(scoring_func="softmax"),
        "scoring_func softmax: deepseek_v3 has sigmoid",
    ),
    "another epsilon": ("one", config(rms_norm_eps=-1e-5), "rms_norm_eps -1e-05"),
    "key heads fewer": ("one", config(num_key_value_heads=1), "num_key_value_heads"),
    "rope by wavelength": (
        "one",
        config(rope_scaling={"type": "linear", "factor": 4}),
        "rotary positions of type linear",
    ),
    "rope unknown": (
        "one",
        config(rope_scaling=ROPE | {"long_factor": [1]}),
        "rotary settings that seekjax does not know: long_factor",
    ),
    "rope with one mscale": (
        "one",
        config(rope_scaling=ROPE | {"mscale": None}),
        "one of mscale and mscale_all_dim",
    ),
    "rope twice": (
        "one",
        config(rope_parameters=ROPE | {"rope_theta": 1e4}),
        "both rope_scaling and rope_parameters",
    ),
    "rope without length": (
        "one",
        config(rope_scaling={"type": "yarn", "factor": 4, "mscale": 1, "mscale_all_dim": 1}),
        "yarn without original_max",
    ),
    "rope that never begins": (
        "one",
        config(max_position_embeddings=16),
        "does not exceed original_max_position_embeddings",
    ),
    "quantised otherwise": (
        "fp8",
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "quant_method gptq.*bits",
    ),
    "quantised in other blocks": (
        "fp8",
        config(quantization_config=FP8 | {"weight_block_size": [32, 32]}),
        r"weight_block_size \[32, 32\]",
    ),
    "quantised statically": (
        "fp8",
        config(quantization_config=FP8 | {"activation_scheme": "static"}),
        "activation_scheme static",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_refused(case, whole, tmp_path, monkeypatch, capsys):
    kind, breaking, said = CASES[case]
    shutil.copytree(whole / kind, tmp_path / "broken")
    breaking(tmp_path / "broken")
    tracemalloc.start()
    with pytest.raises(WeightsError) as refusal:
        load(tmp_path / "broken")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sentence = str(refusal.value)
    assert re.search(said, sentence), sentence
    assert sentence.isprintable()
    assert sentence.endswith("."), sentence
    assert peak < 2**26

    monkeypatch.setattr(
        sys,
        "argv",
        ["seekjax", "convert", "--from", str(tmp_path / "broken"), "--to", str(tmp_path / "run")],
    )
    assert main() == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_there_are_enough():
    assert len(CASES) >= 60


@pytest.mark.parametrize("kind", ["one", "many", "fp8"])
def test_unbroken(kind, whole):
    load(whole / kind)


def test_links_of_a_download_cache_are_followed(whole, tmp_path):
    for path in (whole / "one").iterdir():
        (tmp_path / path.name).symlink_to(path)
    load(tmp_path)
