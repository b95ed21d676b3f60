"""Runs whose numbers go bad: they skip, return to a checkpoint, or stop with a diagnosis. The loop
is the real one; the model is a quadratic."""

import json
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.checkpoint.write import Checkpoints
from seekjax.errors import RunError
from seekjax.placement import use_mesh
from seekjax.train import loop, metrics
from seekjax.train.clock import Clock, Spent
from seekjax.train.guard import Guard
from seekjax.train.metrics import Recorder, Screen
from seekjax.train.recompute import difference, sums_of_bits
from seekjax.train.saving import Saving
from seekjax.train.signals import Signals
from seekjax.train.step import compile_gradient
from sharding.mesh import MeshConfig
from sharding.rules import sharding
from tests.train.quadratic import CONFIG, Batches, Quadratic, parts, quadratic, weights


def run(folder, source, step=None, gradient=None, config=CONFIG):
    """The last state of a run into a folder."""
    made = parts(source, step, gradient, config)
    training = SimpleNamespace(config=config, shared_position=False)
    with use_mesh(MeshConfig(data=1)), closing(Checkpoints(folder, keep=3)) as checkpoints:
        state, done = loop.begin(training, made, checkpoints)
        signals = Signals()
        with Screen(config.train.steps, done, signals) as screen:
            recorder = Recorder(config, folder, done, screen.say)
            clock = Clock(Spent(), time.perf_counter())
            progress = loop.Progress(config, made, screen, recorder, clock)
            saving = Saving(config, checkpoints, clock, screen.say, made.spec)
            again = partial(loop.begin, training, made, checkpoints)
            guard = Guard(config, made, saving, recorder, screen.say, again)
            return loop.train(made, state, done, signals, screen, progress, saving, guard)


def saved_steps(folder):
    return sorted(int(path.name) for path in folder.glob("checkpoints/[0-9]*"))


def records(folder, split):
    return [record for record in metrics.read(folder) if record["split"] == split]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The last state of a run to which nothing happens."""
    folder = tmp_path_factory.mktemp("clean")
    state = run(folder, Batches())
    assert saved_steps(folder) == [10, 15, 20]
    assert {record["skipped"] for record in records(folder, "train")} == {0}
    return state


def error_of(state):
    """How far a state is from the solution."""
    return float(np.abs(np.diag(state.params["w"]) + state.params["norm"] - 2).max())


@pytest.mark.slow
def test_one_poisoned_batch_is_skipped_and_counted(clean, tmp_path, capsys):
    state = run(tmp_path, Batches(poisoned={7}))
    assert error_of(state) < 1.01 * error_of(clean) + 0.01
    said = capsys.readouterr().out
    assert "step 8: update skipped, loss nan, gradient norm nan; not finite is the" in said
    assert "SKIPPED 1" in said
    skipped = {record["step"]: record["skipped"] for record in records(tmp_path, "train")}
    assert [step for step, count in skipped.items() if count] == [8]

    # The file is JSON in every reader: what is not finite is null there, and nan when read.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["step"] for row in rows if row.get("loss", 0) is None] == [8]
    assert np.isnan(next(r["loss"] for r in records(tmp_path, "train") if r["step"] == 8))


def test_bad_data_in_a_row_lead_back_to_a_checkpoint_and_are_passed(tmp_path, capsys):
    source = Batches(poisoned=range(7, 15))
    state = run(tmp_path, source)
    assert int(state.step) == 20
    assert error_of(state) < 0.2
    assert "3 updates skipped in a row, steps 8 to 10: back to step 5" in capsys.readouterr().out
    assert source.read == sorted(set(source.read))
    steps = [record["step"] for record in records(tmp_path, "train")]
    assert steps == list(range(1, 21))
    assert [record["step"] for record in records(tmp_path, "guard")] == [5, 5]


def poison_after(number, change):
    """A step that changes the state once, after so many calls."""
    compiled, calls = quadratic()[1], []

    def step(state, batch):
        state, found = compiled(state, batch)
        calls.append(None)
        return (change(state) if len(calls) == number else state), found

    return step


def scaled(factor):
    return lambda state: state.replace(params=jax.tree.map(lambda x: x * factor, state.params))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "change", "words"),
    [
        (7, scaled(jnp.nan), "updates skipped in a row, steps 8 to 10: back to step 5"),
        # Far too large, but finite: the damaged checkpoint of step 10 is set aside.
        (10, scaled(1e25), "back to step 5"),
        # A spike, with weights that are merely bad.
        (17, scaled(30.0), "far above recent ones"),
        # In an array that no loss shows.
        (
            14,
            lambda state: state.replace(ema=scaled(jnp.nan)(state).params),
            "not finite in ema/norm, ema/w: back to step 10",
        ),
    ],
    ids=["nan", "huge", "spike", "average"],
)
def test_bad_weights_lead_back_to_a_good_checkpoint(tmp_path, capsys, number, change, words):
    state = run(tmp_path, Batches(), poison_after(number, change))
    assert words in capsys.readouterr().out
    assert int(state.step) == 20
    assert error_of(state) < 0.2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.ema)))
    assert saved_steps(tmp_path) == [10, 15, 20]
    assert len(list(tmp_path.glob("checkpoints/bad-10"))) == (number == 10)


def test_a_run_that_does_not_recover_stops_with_a_diagnosis(tmp_path, capsys):
    source = Batches(poisoned=range(12, 10_000))
    with pytest.raises(RunError, match=r"updates skipped in a row.*also after 3 returns"):
        run(tmp_path, source)
    said = capsys.readouterr().out
    assert "first bad step: 13, loss nan" in said
    assert "largest gradients at step 12, the last good one" in said
    assert "a lower optimizer.learning_rate (now 0.05)" in said
    assert saved_steps(tmp_path) == [5]
    assert len(list(tmp_path.glob("checkpoints/bad-10"))) == 1

    # The same line goes on from there once the data are good.
    source.poisoned = ()
    state = run(tmp_path, source)
    assert int(state.step) == 20
    assert error_of(state) < 0.2


def test_a_rate_that_is_far_too_high_stops_before_anything_is_saved(tmp_path, capsys):
    optimizer = replace(CONFIG.optimizer, learning_rate=1e20, clip=0.0)
    train = replace(CONFIG.train, spike=0.0, ema=0.0, skip_limit=5)
    config = replace(CONFIG, optimizer=optimizer, train=train)
    with pytest.raises(RunError, match="training stopped at step 6: 5 updates skipped"):
        run(tmp_path, Batches(), config=config)
    said = capsys.readouterr().out
    assert "a lower optimizer.learning_rate (now 1e+20)" in said
    assert "optimizer.clip 1; train.spike 10" in said
    assert saved_steps(tmp_path) == []


def test_a_bad_end_is_not_saved(tmp_path):
    """The last updates are skipped, and the held-out loss is not finite: back, and to the end."""
    config = replace(CONFIG, train=replace(CONFIG.train, skip_limit=10))
    step = poison_after(18, scaled(jnp.nan))
    state = run(tmp_path, Batches(), step, config=config)
    assert int(state.step) == 20
    assert saved_steps(tmp_path) == [10, 15, 20]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def flip(state):
    """The state with one bit of one weight flipped."""
    bits = jax.lax.bitcast_convert_type(state.params["w"], jnp.uint32)
    w = jax.lax.bitcast_convert_type(bits.at[3, 3].set(bits[3, 3] ^ 1), jnp.float32)
    return state.replace(params=state.params | {"w": jax.device_put(w, state.params["w"].sharding)})


def test_a_flipped_bit_is_found_and_healed(clean, tmp_path, capsys):
    """Bit for bit: the run returns to its checkpoint, and reads the same data again."""
    config = replace(CONFIG, train=replace(CONFIG.train, recompute_every=3))
    with use_mesh(MeshConfig(data=1)):
        compiled = compile_gradient(quadratic()[0], Quadratic)
    calls = []

    def gradient(state, batch):
        calls.append(None)
        if len(calls) == 10:  # the second computation of step 15
            state.params.update(flip(state).params)
        return compiled(state, batch)

    source = Batches()
    state = run(tmp_path, source, gradient=gradient, config=config)
    said = capsys.readouterr().out
    assert "silent data corruption at step 15: cpu:0 differs in params/w: back to step 10" in said
    assert source.read == [*range(15), *range(10, 20)]
    jax.tree.map(np.testing.assert_array_equal, weights(state), weights(clean))


def test_the_device_with_the_flipped_bit_is_named():
    labels = ["gradient/w", "params/w"]
    healthy = {0: np.array([1, 2]), 1: np.array([1, 2])}
    assert difference(healthy, healthy, labels) == ""
    reduced = {0: np.array([9, 2]), 1: np.array([9, 3])}
    assert difference(healthy, reduced, labels) == "1 differs in params/w"
    computed = {0: np.array([1, 2]), 1: np.array([9, 2])}
    assert difference(healthy, computed, labels) == "1 differs in gradient/w"


def test_every_device_sums_its_own_part():
    """One bit of a replicated and of a divided array, on one of eight devices, names that one."""
    with use_mesh(MeshConfig(data=2, fsdp=4)):
        whole = jax.device_put(jnp.ones((4, 8)), sharding("- -"))
        divided = jax.device_put(jnp.ones((8, 4)), sharding("embed -"))
        before = sums_of_bits([divided, whole])
        for number, x in enumerate((divided, whole)):
            parts = [shard.data for shard in x.addressable_shards]
            part, device = np.array(parts[5]), x.addressable_shards[5].device
            part[0, 0] *= -1
            parts[5] = jax.device_put(part, device)
            broken = jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)
            arrays = [divided, whole]
            arrays[number] = broken
            text = difference(before, sums_of_bits(arrays), ["gradient", "params/w"])
            assert text == f"{device} differs in {['gradient', 'params/w'][number]}"


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_bit_counts(dtype):
    x = np.linspace(-1, 1, 24).reshape(4, 6).astype(dtype)
    (before,) = sums_of_bits(jnp.asarray(x)).values()
    for bit in range(8 * x.itemsize):
        flipped = x.copy()
        bits = flipped.view({2: np.uint16, 4: np.uint32}[x.itemsize])
        bits[2, 3] ^= 1 << bit
        (after,) = sums_of_bits(jnp.asarray(flipped)).values()
        assert (before != after).all()


def test_looking_for_spikes_can_begin_and_end_within_a_run(clean, tmp_path):
    """A checkpoint made without recent updates serves a run with them, and the other way round."""
    half = replace(CONFIG, train=replace(CONFIG.train, steps=5))
    without = replace(half, train=replace(half.train, spike=0.0))
    run(tmp_path, Batches(), config=without)
    for config, steps in ((half, 10), (without, 20)):
        longer = replace(config, train=replace(config.train, steps=steps))
        state = run(tmp_path, Batches(), config=longer)
    jax.tree.map(np.testing.assert_array_equal, weights(state), weights(clean))
