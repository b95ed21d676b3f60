"""Fine-tuning: what is packed together does not meet, only answers are learnt, a resumed run is the
same, and ESFT moves chosen experts alone."""

import json
import os
import shutil
import signal
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekjax.checkpoint.config_json import read_config
from seekjax.checkpoint.read import read_run
from seekjax.config import SftConfig
from seekjax.data import DataError
from seekjax.errors import ConfigError, RunError
from seekjax.open import with_initial_model
from seekjax.placement import use_mesh
from seekjax.post.kinds import training_of
from seekjax.post.samples.batches import training_batches
from seekjax.post.tune.esft import relevance, smallest_sets
from seekjax.post.tune.sft import AnswerTokens
from seekjax.train import metrics
from seekjax.train.loop import fit
from seekjax.train.score import log_probs
from sharding.mesh import MeshConfig
from tests.fixtures import CLOCK


def run(config):
    return fit(config, training_of(config))


def leaves(state):
    return [
        np.asarray(x) for x in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))
    ]


def without_clock(record):
    return {name: value for name, value in record.items() if name not in CLOCK}


@pytest.fixture(scope="module")
def tuned(tiny, chats, tmp_path_factory):
    return run(
        tiny(
            tmp_path_factory.mktemp("sft") / "run",
            SftConfig(chats=(chats,), tasks=("addition:1",)),
            ema=0.9,
            micro_batch=2,
        )
    )


@pytest.fixture(scope="module")
def score(tuned):
    spec = tuned.parts.spec
    return jax.jit(
        lambda params, balance, batch: log_probs(spec.model, spec.config, params, balance, batch)[0]
    )


def first_batch(fitted):
    training, config = fitted.training, fitted.parts.spec.config
    return next(training_batches(config, training.corpus, training.chat_format, "en"))


@pytest.mark.slow
def test_a_run_says_what_it_learns_and_learns_it(tuned, chats):
    records = metrics.read(tuned.folder)
    train, held = ([r for r in records if r["split"] == split] for split in ("train", "held_out"))
    assert [r["step"] for r in train] == [1, 2, 3, 4, 5, 6]
    assert all(0.1 < r["trained"] < 0.9 and 0.5 < r["filled"] <= 1 for r in train)
    assert train[-1]["loss"] < train[0]["loss"] - 0.5
    assert {f"loss/{chats}", "loss/addition:1", "loss", "bits_per_byte"} <= held[-1].keys()
    manifest = json.loads((tuned.folder / "data.json").read_text())["sources"]
    assert manifest[0]["train"] + manifest[0]["held_out"] == 12
    assert len(manifest[0]["files"][0]["sha256"]) == 64
    lines = tuned.parts.report.finish(tuned.state, tuned.folder)
    assert lines[0] == "a sample:"
    assert lines[-1] == f"next: talk with it: seekjax chat {tuned.folder}"
    assert "add_generation_prompt" in (tuned.folder / "chat_template.jinja").read_text()
    assert read_config(tuned.folder / "config.json", trust=False).sft == tuned.config.sft


@pytest.mark.slow
def test_samples_that_share_a_row_have_the_loss_they_have_alone(tuned, score):
    state = tuned.state
    packed = {name: x[:1] for name, x in first_batch(tuned).items()}
    rows = {name: np.zeros((9, 65), x.dtype) for name, x in packed.items()}
    spans = [
        np.flatnonzero(packed["segments"][0] == n) for n in range(1, packed["segments"].max() + 1)
    ]
    assert 2 <= len(spans) <= 8
    for row, span in enumerate(spans, 1):
        rows["tokens"][row, : len(span)], rows["segments"][row, : len(span)] = (
            packed["tokens"][0, span],
            1,
        )
    for name in packed:
        rows[name][0] = packed[name][0]
    logp = np.asarray(score(state.params, state.balance, rows))
    for row, span in enumerate(spans, 1):
        np.testing.assert_allclose(logp[0, span[:-1]], logp[row, : len(span) - 1], atol=2e-5)


@pytest.mark.slow
def test_the_loss_is_the_mean_over_what_the_assistant_said(tuned, score):
    spec, tokenizer, state = tuned.parts.spec, tuned.training.tokenizer, tuned.state
    batch = first_batch(tuned)
    logp, learnt = (
        np.asarray(score(state.params, state.balance, batch)),
        batch["trained"][:, 1:].astype(bool),
    )
    criterion = AnswerTokens(spec, tokenizer.bytes_V)

    @jax.jit
    def measure(state, batch):
        whole = {name: x[None] for name, x in batch.items()}
        totals = criterion.totals(whole)
        _, seen = criterion.loss(state.params, state, batch, totals)
        return seen, criterion.metrics(whole, totals)

    seen, figures = measure(state, batch)
    np.testing.assert_allclose(seen["loss"], -logp[learnt].mean(), rtol=1e-5)
    assert figures["tokens"] == learnt.sum()
    assert np.isclose(figures["trained"], learnt.sum() / (batch["segments"][:, 1:] > 0).sum())
    assert {tokenizer.eos} == {
        int(row[np.flatnonzero(kept)[-1]])
        for row, kept in zip(batch["tokens"], batch["trained"].astype(bool))
    }


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(tuned, tmp_path, monkeypatch):
    write, config = metrics.Recorder.write, replace(tuned.config, out=tmp_path)

    def stop_after_three(self, record):
        write(self, record)
        if record["step"] == 3 and record["split"] == "train":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.Recorder, "write", stop_after_three)
        stopped = run(config)
    assert not stopped.finished
    resumed = run(config)
    assert resumed.finished
    assert all(
        np.array_equal(a, b)
        for a, b in zip(leaves(resumed.state), leaves(tuned.state), strict=True)
    )
    assert list(map(without_clock, metrics.read(tmp_path))) == list(
        map(without_clock, metrics.read(tuned.folder))
    )
    with pytest.raises(DataError, match="template"):  # another template means other tokens
        run(
            replace(
                config,
                sft=replace(config.sft, template="r1"),
                train=replace(config.train, steps=8),
            )
        )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_split_sequences_learn_the_same(tuned, tmp_path):
    """Samples that share a row meet across its parts as little as within one."""
    mesh = MeshConfig(data=2, context=2)
    split = run(replace(tuned.config, out=tmp_path, mesh=mesh))
    found, expected = metrics.read(split.folder), metrics.read(tuned.folder)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.pop("split") == theirs.pop("split")
        chex.assert_trees_all_close(without_clock(ours), without_clock(theirs), rtol=1e-5)


def test_settings_that_do_not_fit_are_refused(tiny, chats, tmp_path):
    config = tiny(tmp_path, SftConfig(chats=(chats,)))
    for wrong, says in [
        (replace(config, data=replace(config.data, tokenizer="bpe")), "--init"),
        (replace(config, sft=SftConfig(expert_share=2.0)), "share"),
        (
            replace(config, sft=SftConfig(expert_share=0.5), lora=replace(config.lora, rank=2)),
            "choose one",
        ),
        (replace(config, data=replace(config.data, workers=1)), "workers"),
        (replace(config, lora=replace(config.lora, rank=-1)), "lora.rank"),
    ]:
        with pytest.raises((ConfigError, DataError), match=says):
            run(wrong)


@pytest.fixture(scope="module")
def specialised(tuned, tiny, chats, tmp_path_factory):
    """ESFT from the tuned run: half of the relevance. Nothing is held out, nor measured."""
    config = tiny(
        tmp_path_factory.mktemp("esft") / "run",
        SftConfig(chats=(chats,), expert_share=0.5),
        steps=2,
    )
    config = replace(config, data=replace(config.data, held_out=0.0))
    shutil.copy(tuned.folder / "tokenizer.json", config.out.parent)
    return run(replace(config, init=tuned.folder))


@pytest.mark.long
@pytest.mark.slow
def test_esft_moves_chosen_experts_and_no_other_bit(specialised):
    _, before = read_run(specialised.config.init)
    chosen = specialised.parts.spec.chosen_LE
    assert chosen.any(1).all()
    assert not chosen.all(1).any()
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before["params"]),
        jax.tree.leaves(specialised.state.params),
    ):
        keys = [entry.key for entry in path]
        same = np.asarray(old).view(np.int32) == np.asarray(new).view(np.int32)
        if keys[:2] == ["expert_layers", "ffn"] and keys[2] in ("w_gate", "w_up", "w_down"):
            same = same.reshape(*chosen.shape, -1)
            assert same[~chosen].all()
            assert not same[chosen].all(-1).any()
        else:
            assert same.all(), keys


@pytest.mark.long
@pytest.mark.slow
def test_the_choice_is_kept_and_needed(specialised, tmp_path):
    shutil.copytree(specialised.folder, tmp_path / "run")
    config, file = (
        replace(
            specialised.config,
            out=tmp_path / "run",
            train=replace(specialised.config.train, steps=3),
        ),
        tmp_path / "run" / "experts.json",
    )
    with pytest.raises(RunError, match="asks for"):
        run(replace(config, sft=replace(config.sft, expert_share=0.6)))
    kept = file.read_text()
    file.unlink()
    with pytest.raises(RunError, match="is missing"):
        run(config)
    file.write_text(kept.replace("[[", "[[99,", 1))
    with pytest.raises(RunError, match="does not say"):
        run(config)
    file.write_text(kept)
    training = training_of(config)(with_initial_model(config))
    with use_mesh(config.mesh):
        spec = training.build(config.out).spec
    assert np.array_equal(spec.chosen_LE, specialised.parts.spec.chosen_LE)


@pytest.mark.slow
def test_relevance_counts_choices_and_gates(tuned):
    spec, state = tuned.parts.spec, tuned.state
    batch = first_batch(tuned)

    @jax.jit
    def measure(params, balance):
        found = {}
        for kind in ("token", "gate"):
            found[kind] = relevance(spec, kind, params, balance, batch)
        inputs = batch["tokens"][:, :-1], batch["segments"][:, :-1]
        output = spec.model.apply({"params": params, "balance": balance}, *inputs)
        return found, output.balance["expert_layers"]

    found, seen = jax.device_get(measure(state.params, state.balance))
    choice, gate, real = (
        np.asarray(seen["choice_BTK"]),
        np.asarray(seen["gate_BTK"]),
        batch["segments"][:, :-1] > 0,
    )
    for layer in range(2):
        for expert in range(8):
            at = (choice[layer] == expert) & real[..., None]
            np.testing.assert_allclose(
                [found["token"][layer, expert], found["gate"][layer, expert]],
                [at.sum(), gate[layer][at].sum()],
                rtol=1e-5,
            )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any), st.integers(1, 20))
def test_the_smallest_set_with_the_share(counts, part):
    share, relevance_E = part / 20, np.array(counts) / sum(counts)
    [chosen] = smallest_sets(relevance_E[None], share)
    subsets = [[i for i in range(len(counts)) if mask >> i & 1] for mask in range(2 ** len(counts))]
    fewest = min(len(subset) for subset in subsets if relevance_E[subset].sum() >= share - 1e-9)
    assert chosen.sum() == fewest
    assert relevance_E[chosen].sum() >= share - 1e-9
