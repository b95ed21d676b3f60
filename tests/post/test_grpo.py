"""Reinforcement in the loop: the trainer follows the sampler exactly, a resumed run is the same
run, and a mesh changes nothing."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import (
    CONSTANT,
    Config,
    DataConfig,
    GrpoConfig,
    LoraConfig,
    Objective,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.config.recipes import RECIPES, find_recipe, objective_of
from seekjax.data import DataError
from seekjax.data.chat import BUILT_IN
from seekjax.errors import ConfigError
from seekjax.model.transformer import Transformer
from seekjax.open import initial_variables, open_model, with_initial_model
from seekjax.placement import use_mesh
from seekjax.post.rl.grpo import Reinforcement
from seekjax.post.rl.updates import DRAW
from seekjax.train import metrics
from seekjax.train.loop import fit
from seekjax.train.score import log_probs
from seekjax.train.state import RunSpec
from sharding.mesh import MeshConfig
from tests.fixtures import CLOCK, ONE_LAYER, PLAIN, save_run

pytestmark = pytest.mark.slow

# One layer of experts: what the trainer and the sampler must agree on.
BASE = Config(
    model=ONE_LAYER,
    data=DataConfig(tokenizer="byte", sequence=40),
    kernel=PLAIN,
    mesh=MeshConfig(data=1),
)

OWN = "tests.scripts.own_recipe:TEMPERED"

# Above rounding: Adam's usual eps divides a gradient that is nothing but rounding by its own size.
EPS = 1e-5


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run with random weights and a bias that decides who is chosen."""
    return save_biased(BASE, tmp_path_factory.mktemp("base"))


def save_biased(config, folder):
    random = np.random.default_rng(7)

    def move(bias_E):
        return jnp.asarray(random.uniform(-0.2, 0.2, bias_E.shape), bias_E.dtype)

    save_run(config, folder, lambda state: state.replace(balance=jax.tree.map(move, state.balance)))
    return folder


def run(base, out, steps=12, grpo=None, objective=None, mesh=BASE.mesh, **train):
    grpo = {
        "prompts": 4,
        "group": 4,
        "max_new": 16,
        "temperature": 0.8,
        "top_p": 0.9,
        "rewards": (("tests.scripts.own_reward:vowels", 10.0),),
        "tasks": ("addition:1",),
        "eval_problems": 16,
        "preflight": False,
        "reference_every": 4,
    } | (grpo or {})
    recipe = find_recipe(grpo.get("recipe", "v3_2"))
    train = {
        "steps": steps,
        "seed": 2,
        "batch": 16,
        "micro_batch": 8,
        "log_every": 1,
        "eval_every": 12,
        "save_every": 6,
        "balance_loss": 0.0,
    } | train
    return replace(
        BASE,
        init=base,
        out=out,
        mesh=mesh,
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup=1, schedule=CONSTANT, weight_decay=0.0, eps=EPS
        ),
        train=TrainConfig(**train),
        grpo=GrpoConfig(**grpo, objective=replace(recipe, **{"kl": 0.02} | (objective or {}))),
    )


@pytest.fixture(scope="module")
def unbroken(base, tmp_path_factory):
    return fit(run(base, tmp_path_factory.mktemp("unbroken")), Reinforcement)


def figures(fitted, split="train"):
    return [
        {
            name: value
            for name, value in record.items()
            if name not in (*CLOCK, "seconds_drawing", "seconds_scoring")
        }
        for record in metrics.read(fitted.folder)
        if record["split"] == split
    ]


def same(a, b, tolerance=0.0):
    raw = [jax.tree.leaves(state.replace(key=jax.random.key_data(state.key))) for state in (a, b)]
    for x, y in zip(*raw, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=tolerance)


def test_a_run_learns_its_reward_on_its_own_policy(unbroken):
    records = figures(unbroken)
    assert len(records) == 12
    assert np.mean([r["reward"] for r in records[-4:]]) > 1.5 * np.mean(
        [r["reward"] for r in records[:4]]
    )
    assert all(
        r["ratio"] == 1 and r["log_ratio"] == 0 and r["clip_high"] == r["clip_low"] == 0
        for r in records
    )  # one update a rollout
    assert max(r["gap"] for r in records) < 1e-4
    assert records[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert records[3]["kl"] > 1e-3
    assert records[4]["kl"] == pytest.approx(0, abs=1e-6)
    [seen] = figures(unbroken, "held_out")
    assert {
        "accuracy",
        "parsed",
        "length",
        "truncated",
        "reward/tests.scripts.own_reward:vowels",
    } <= seen.keys()


def test_twelve_steps_are_six_a_restart_and_six(unbroken, tmp_path):
    shutil.copytree(unbroken.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    resumed = fit(replace(unbroken.config, out=tmp_path / "run"), Reinforcement)
    same(resumed.state, unbroken.state)
    assert figures(resumed) == figures(unbroken)
    assert (tmp_path / "run" / "rollouts.jsonl").read_text() == (
        unbroken.folder / "rollouts.jsonl"
    ).read_text()


def test_the_balance_bias_stays_and_the_reference_moves(unbroken, base):
    with use_mesh(BASE.mesh):
        parts = Reinforcement(unbroken.config).build(unbroken.folder)
        first = parts.spec.start(initial_variables(unbroken.config))
    same(
        first.replace(params={}, opt_state=(), frozen={}, step=0),
        unbroken.state.replace(params={}, opt_state=(), frozen={}, step=0),
    )
    before, after = jax.device_get((first.params, unbroken.state.frozen["reference"]))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.long
@pytest.mark.mesh
def test_eight_devices_make_the_same_updates(base, tmp_path):
    """As many steps as the samples are the same word for word; then the weights are, to what
    float32 sums allow."""

    def two_steps(name, mesh):
        folder = tmp_path / name
        training = Reinforcement(with_initial_model(run(base, folder, mesh=mesh)))
        folder.mkdir()
        with use_mesh(mesh):
            parts = training.build(folder)
            state = parts.spec.start(initial_variables(training.config))
            for step in range(2):
                state, _ = parts.step(state, parts.source.batch(step, state))
        return (folder / "rollouts.jsonl").read_text(), state

    (texts, one), (others, many) = (
        two_steps("one", BASE.mesh),
        two_steps("many", MeshConfig(data=2, expert=2, tensor=2)),
    )
    assert texts == others
    same(one, many, 2e-5)


def opened(base, folder):
    """The training, its parts, and a first state."""
    training = Reinforcement(with_initial_model(run(base, None)))
    parts = training.build(folder)
    return training, parts, RunSpec(training.config).start(initial_variables(training.config))


@pytest.mark.long
def test_replayed_routing_is_what_the_trainer_follows(tmp_path):
    """After absorbed decoding with temperature and top-p; with other experts, or without the mask,
    the probabilities are others. The layer before that of experts has none."""
    deep = replace(BASE, model=replace(BASE.model, layers=2, dense_layers=1))
    deep_base = save_biased(deep, tmp_path / "base")
    with use_mesh(BASE.mesh):
        training, parts, state = opened(deep_base, tmp_path)
        texts = parts.source.rollouts.sampler(
            {"params": state.params, "balance": state.balance},
            [training.grader.prompt(p) for p in training.problems.training(0, 4)],
            4,
            jax.random.key(0),
        )
        score = jax.jit(
            lambda texts: log_probs(
                Transformer(deep.model, deep.kernel),
                training.config,
                state.params,
                state.balance,
                texts,
                0.8,
            )[0]
        )

        def gap(texts):
            return float(
                jnp.where(texts["mask"], jnp.abs(score(texts) - texts["log_prob"][:, 1:]), 0).max()
            )

        assert gap(texts) < 1e-4
        assert (
            gap(
                texts
                | {"choice": jax.tree.map(lambda c: (c + 1) % BASE.model.experts, texts["choice"])}
            )
            > 1e-2
        )
        assert gap({name: x for name, x in texts.items() if name != "kept"}) > 1e-2
    assert (
        len({tuple(row) for row in np.asarray(texts["tokens"])}) > 12
    )  # samples of a group differ


def test_every_rollout_draws_anew_and_ends_where_padding_is_the_end_too(base, tmp_path):
    """Three public trainers' mistakes: one key for all steps, prompts read once a sample, the end
    masked out where it is also the padding."""
    with use_mesh(BASE.mesh):
        training, parts, state = opened(base, tmp_path)
        sampler = parts.source.rollouts.sampler
        prompts = [training.grader.prompt(p) for p in training.problems.training(0, 4)]

        def drawn():
            return jax.device_get(
                sampler(
                    {"params": state.params, "balance": state.balance},
                    prompts,
                    4,
                    parts.source.key(DRAW),
                )
            )

        first, again = drawn(), drawn()
        parts.source.number += 1
        second = drawn()
        assert np.array_equal(first["tokens"], again["tokens"])
        assert not np.array_equal(first["tokens"], second["tokens"])
        sampler.stop_X[0] = end = np.bincount(
            second["tokens"][:, 1:][second["mask"]]
        ).argmax()  # so that some texts do end
        ended = drawn()
        sampler.pad = end
        padded = drawn()
        for name in ("length", "mask", "segments"):
            assert np.array_equal(padded[name], ended[name]), name
        assert np.array_equal(
            padded["tokens"][padded["segments"] > 0], ended["tokens"][ended["segments"] > 0]
        )
        last, rows = padded["length"] - 1, np.arange(16)
        short = padded["mask"].sum(1) < training.grpo.max_new
        assert short.any()
        assert (padded["tokens"][rows, last][short] == end).all()
        assert padded["mask"][rows, last - 1].all()
        shapes = str(
            jax.make_jaxpr(
                lambda: sampler(
                    {"params": state.params, "balance": state.balance},
                    prompts,
                    4,
                    parts.source.key(DRAW),
                )
            )()
        )
    assert f"f32[4,{sampler.room},32]" in shapes
    assert f"f32[16,{sampler.room},32]" not in shapes


class Counted(Reinforcement):
    """Counts what compiles, up to the beginning of every step."""

    compiled, before = [], []

    def build(self, folder):
        parts = super().build(folder)
        draw = parts.source.batch

        def batch(step, state):
            self.before.append(len(self.compiled))
            return draw(step, state)

        parts.source.batch = batch
        return parts


@pytest.mark.long
def test_inner_epochs_and_minibatches_move_the_ratio_and_nothing_compiles_after_warm_up(
    base, tmp_path
):
    """Three rollouts of four updates each; the reference is first replaced at the second."""
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: Counted.compiled.append(name) if "backend_compile" in name else None
    )
    grpo = {"epochs": 2, "recipe": "dapo", "rounds": 2, "reference_every": 1}
    fitted = fit(
        run(
            base,
            tmp_path,
            steps=12,
            batch=8,
            grpo=grpo,
            objective={"truncate": 2.0},
            seed=3,
        ),
        Counted,
    )
    assert figures(fitted)[0]["signal"] < 1  # so that the first rollout has a second round
    assert Counted.before[0] < Counted.before[1]
    assert Counted.before[8] == Counted.before[11]
    records = figures(fitted)
    assert "reward/length" in records[0]  # DAPO's penalty
    assert records[0]["ratio"] == pytest.approx(1, abs=1e-5)
    assert all(abs(r["log_ratio"]) > 1e-6 for r in records[1:4])
    assert [r["reward"] for r in records[:4]] == [records[0]["reward"]] * 4
    assert records[4]["reward"] != records[0]["reward"]
    assert not (tmp_path / "checkpoints" / "6").exists()
    assert (tmp_path / "checkpoints" / "8").exists()


def test_a_failing_reward_is_counted_and_named_not_zero(base, tmp_path):
    config = run(
        base, tmp_path, steps=1, grpo={"rewards": (("tests.scripts.own_reward:picky", 1.0),)}
    )
    fitted = fit(config, Reinforcement)
    [record] = figures(fitted)
    samples = [
        one
        for group in json.loads((tmp_path / "rollouts.jsonl").read_text())["groups"]
        for one in group["samples"]
    ]
    failed = [one for one in samples if one["reward"] is None]
    assert 0 < record["failed"] < 16
    assert failed
    assert all(one["advantage"] == 0 for one in failed)
    assert all("ZeroDivisionError" in one["error"] for one in failed)
    assert all("error" not in one for one in samples if one["reward"] is not None)
    with pytest.raises(DataError, match=r"the reward failed for every sample.*broken returned nan"):
        fit(
            run(
                base,
                tmp_path / "broken",
                grpo={"rewards": (("tests.scripts.own_reward:broken", 1.0),)},
            ),
            Reinforcement,
        )


@pytest.fixture(scope="module")
def broken_off(base, tmp_path_factory):
    """Adapters and the bias learn, by a recipe and a reward from outside and without a reference,
    until the reward breaks in the second rollout."""
    folder = tmp_path_factory.mktemp("broken_off")
    config = run(
        base,
        folder,
        steps=2,
        save_every=2,
        balance_rate=0.01,
        grpo={
            "rewards": (("tests.scripts.own_reward:fails_on_the_second_rollout", 1.0),),
            "move_bias": True,
            "recipe": OWN,
        },
        objective={"kl": 0.0},
    )
    with pytest.raises(DataError, match="the reward failed for every sample"):
        fit(replace(config, lora=LoraConfig(rank=2)), Reinforcement)
    return folder


@pytest.mark.long
def test_a_reward_that_breaks_later_costs_no_step(broken_off):
    assert json.loads((broken_off / "checkpoints" / "1" / "data-0.json").read_text()) == {
        "rollouts": 1,
        "cursor": 4,
    }
    [record] = metrics.read(broken_off)
    assert record["step"] == 1
    assert "kl" not in record


def test_adapters_learn_from_rewards_and_the_bias_moves_where_asked(broken_off, base):
    with use_mesh(BASE.mesh):
        before, after = (
            jax.device_get(open_model(folder).variables) for folder in (base, broken_off)
        )
    moved = jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: (a != b).any(), before, after)
    )
    names = {jax.tree_util.keystr(path): different for path, different in moved}
    assert any(different for name, different in names.items() if "w_o" in name)
    assert any(different for name, different in names.items() if "bias" in name)
    assert not any(
        different
        for name, different in names.items()
        if "norm" in name or "embed" in name or "router" in name
    )


def test_the_template_is_kept_beside_the_weights(base, unbroken, tmp_path):
    """So that `seekjax chat` and what is trained next ask as the model was taught; a run that was
    saved learns no other."""
    assert (unbroken.folder / "chat_template.jinja").read_text() == BUILT_IN["v3"]
    with use_mesh(BASE.mesh):
        other = Reinforcement(with_initial_model(run(base, tmp_path, grpo={"template": "r1"})))
        other.build(tmp_path)
        assert (tmp_path / "chat_template.jinja").read_text() == BUILT_IN["r1"]
        with pytest.raises(DataError, match="was trained with another chat template"):
            other.build(unbroken.folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init": None}, "name its folder with --init"),
        ({"group": 1}, "grpo.group is 1"),
        ({"prompts": 3}, "grpo.prompts 3 x grpo.group 4 = 12 samples: make train.batch 16 divide"),
        ({"temperature": 0.0}, "grpo.temperature is 0.0"),
        ({"max_new": 40}, "data.sequence 40 must hold a prompt and grpo.max_new 40"),
        ({"recipe": "dappo", "objective": None}, "no recipe 'dappo': did you mean 'dapo'"),
        ({"tasks": ("additon",)}, "did you mean 'addition'"),
        ({"tasks": ("addition:99",)}, "addition has levels"),
        ({"rewards": (("acuracy", 1.0),)}, "did you mean 'accuracy'"),
        ({"max_new": 36}, "a prompt has .* raise data.sequence or lower max_new"),
        ({"steps": 21, "epochs": 2}, "train.steps 21 must be a multiple of the 2 steps"),
        ({"capacity": 1.5}, "kernel.capacity is 1.5: the sampler drops no tokens"),
        ({"move_bias": True}, "kl is 0.02 and grpo.move_bias True"),
    ],
)
def test_bad_input_is_one_sentence(base, tmp_path, change, said):
    config = run(base, tmp_path)
    grpo = {
        name: value for name, value in change.items() if name not in ("init", "steps", "capacity")
    }
    config = replace(
        config,
        init=change.get("init", base),
        grpo=replace(config.grpo, **grpo),
        train=replace(config.train, steps=change.get("steps", 20)),
        kernel=replace(config.kernel, capacity=change.get("capacity", 0.0)),
    )
    with pytest.raises((ConfigError, DataError), match=said) as found:
        fit(config, Reinforcement)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_template_that_asks_for_no_answer_is_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(DataError, match="no generation prompt"):
        Reinforcement(
            with_initial_model(run(tmp_path / "base", tmp_path, grpo={"template": "auto"}))
        )


def test_a_config_replaces_parts_of_its_recipe():
    assert objective_of(GrpoConfig()) == RECIPES["v3_2"]
    changed = replace(RECIPES["dapo"], clip_high=0.4, kl=0.1)
    assert objective_of(GrpoConfig(recipe="dapo")) == RECIPES["dapo"]
    assert objective_of(GrpoConfig(recipe="dapo", objective=changed)) == replace(
        RECIPES["dapo"], clip_high=0.4, kl=0.1
    )


def test_a_recipe_and_its_parts_and_a_reward_may_be_of_ones_own(broken_off, base, tmp_path):
    """All named as module:name; what they move is tested above, and the reward is in the record."""
    [record] = metrics.read(broken_off)
    assert record["reward/tests.scripts.own_reward:fails_on_the_second_rollout"] > 0
    assert record["grad_norm"] > 0
    assert record["clip_low"] == record["clip_high"] == 0
    assert record["signal"] == 1
    assert "kl" not in record

    config = run(base, tmp_path)
    absent = Objective(surrogate="tests.scripts.own_recipe:absent")
    unknown = replace(config.grpo, recipe=OWN, objective=absent)
    with pytest.raises(ConfigError, match="own_recipe does not define absent"):
        Reinforcement(with_initial_model(replace(config, grpo=unknown)))
