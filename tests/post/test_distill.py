"""A teacher that is not asked twice, and students that come to think as their teacher does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from seekjax.config import CONSTANT, DistillConfig, LoraConfig, SamplingConfig
from seekjax.data import DataError
from seekjax.errors import ConfigError, RunError, WeightsError
from seekjax.placement import use_mesh
from seekjax.post.distill import teacher as teachers
from seekjax.post.distill.criterion import TeacherMatch, compile_match, direction
from seekjax.post.distill.saved_logits import LogitStore
from seekjax.post.kinds import training_of
from seekjax.train import metrics
from seekjax.train.loop import fit
from sharding.mesh import MeshConfig
from tests.fixtures import CLOCK, save_run
from tests.reference.divergence import numpy_kl, softmax

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def big(tiny, tmp_path_factory):
    """A teacher: random weights, strong enough to have an opinion."""
    folder = tmp_path_factory.mktemp("big")
    config = tiny(folder)
    config = replace(config, model=replace(config.model, init_std=0.4))
    save_run(config, folder)
    return folder


@pytest.fixture(scope="module")
def settings_of(tiny, big, chats):
    """Config of a student of half the width and depth."""

    def config(out, train=None, **distill):
        settings = {"teacher": big, "chats": (chats,)} | distill
        config = tiny(out, distill=DistillConfig(**settings), **(train or {}))
        return replace(
            config,
            model=replace(
                config.model,
                embed=16,
                layers=1,
                kv_latent=8,
                experts=4,
                expert_groups=1,
                groups_per_token=1,
            ),
            data=replace(config.data, sequence=32),
            optimizer=replace(config.optimizer, schedule=CONSTANT, weight_decay=0.0),
        )

    return config


def run(config):
    return fit(config, training_of(config))


def figures(fitted):
    return [
        {name: value for name, value in record.items() if name not in CLOCK}
        for record in metrics.read(fitted.folder)
    ]


def same(a, b):
    for x, y in zip(
        *(jax.tree.leaves(state.replace(key=jax.random.key_data(state.key))) for state in (a, b)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def learnt(settings_of, tmp_path_factory):
    """Over the whole vocabulary, from random weights."""
    return run(
        settings_of(
            tmp_path_factory.mktemp("learnt"),
            {"steps": 20, "micro_batch": 2, "eval_every": 10, "save_every": 10},
            cross_entropy=0.1,
        )
    )


def test_a_student_of_another_width_learns_to_think_so(learnt, chats, monkeypatch):
    records = figures(learnt)
    train, held = ([r for r in records if r["split"] == split] for split in ("train", "held_out"))
    assert train[-1]["kl"] < 0.5 * train[0]["kl"]
    assert held[-1]["kl"] < 0.6 * train[0]["kl"]
    assert {"loss", "kl", "bits_per_byte", f"kl/{chats}"} <= held[-1].keys()
    assert {
        "loss",
        "mtp_loss",
        "trained",
    } <= train[-1].keys()
    report = learnt.parts.report
    monkeypatch.setattr(report.sft, "sample", lambda state: [])
    lines = report.finish(learnt.state, learnt.folder)
    assert (learnt.folder / "kl.png").exists()
    assert f"next: talk with it: seekjax chat {learnt.folder}" in lines
    assert any("teacher" in line and "2 layers of width 32" in line for line in report.header())
    assert "kl " in report.progress(train[-1])


def test_a_step_mixes_what_was_written_with_what_is_thought(learnt):
    """By NumPy from both models' logits: the mean over the assistant's tokens, the divergence times
    T squared."""
    training, spec = learnt.training, learnt.parts.spec
    distill = replace(training.distill, temperature=2.0, cross_entropy=0.25)
    with use_mesh(learnt.config.mesh):
        batch = learnt.parts.source.batch(0, learnt.state)
        piece = {name: x[0] for name, x in batch.items()}
        head, bytes_V = training.teacher.head, training.tokenizer.bytes_V
        criterion = TeacherMatch(spec, distill, bytes_V, head)
        loss, seen = jax.jit(
            lambda state: criterion.loss(
                state.params, state, piece, criterion.totals({n: x[None] for n, x in piece.items()})
            )
        )(learnt.state)
        variables = {"params": learnt.state.params, "balance": learnt.state.balance}
        output = jax.jit(spec.model.apply)(
            variables, piece["tokens"][:, :-1], piece["segments"][:, :-1]
        )
    learn = np.asarray(piece["trained"][:, 1:], bool)
    z, t = (
        np.asarray(x, float)[learn] @ np.asarray(w)
        for x, w in ((output.hidden_BTD, output.head_DV), (piece["hidden"], head))
    )
    kl = numpy_kl(softmax(t / 2), softmax(z / 2), "forward", 0)[0].mean()
    ce = -np.log(softmax(z)[np.arange(len(z)), np.asarray(piece["tokens"])[:, 1:][learn]]).mean()
    np.testing.assert_allclose([seen["kl"], seen["loss"]], [kl, ce], rtol=1e-4)
    balance = learnt.config.train.balance_loss * seen["balance_loss"]
    np.testing.assert_allclose(loss, 0.75 * 4 * kl + 0.25 * ce + balance, rtol=1e-4)


def test_a_resumed_run_is_the_same_run(learnt, tmp_path):
    shutil.copytree(learnt.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    resumed = run(replace(learnt.config, out=tmp_path / "run"))
    same(resumed.state, learnt.state)
    assert figures(resumed) == figures(learnt)


@pytest.mark.long
@pytest.mark.mesh
def test_eight_devices_make_the_same_updates(learnt, tmp_path):
    """And however the batch is cut: what the third step finds depends on the two before."""
    config = replace(
        learnt.config,
        mesh=MeshConfig(data=2, expert=2, tensor=2),
        train=replace(learnt.config.train, micro_batch=4),
    )
    training = training_of(config)(config)
    few = [r for r in figures(learnt) if r["split"] == "train"]
    with use_mesh(config.mesh):
        parts = training.build(tmp_path)
        state = parts.spec.start()
        for step in range(3):
            state, many = parts.step(state, parts.source.batch(step, state))
            for name in ("kl", "loss", "grad_norm", "balance_loss"):
                np.testing.assert_allclose(many[name], few[step][name], rtol=2e-4, err_msg=name)


@pytest.fixture(scope="module")
def saved(settings_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return run(
        settings_of(folder / "run", top_k=8, save_logits=folder / "logits", divergence="reverse")
    )


def test_saved_logits_teach_what_the_teacher_does_without_it(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "open_model", lambda *_: pytest.fail("the teacher was loaded"))
    again = run(replace(saved.config, out=tmp_path / "run"))
    same(again.state, saved.state)
    assert figures(again) == figures(saved)
    assert saved.training.teacher.opened
    assert "opened" not in vars(again.training.teacher)
    size = sum(path.stat().st_size for path in saved.config.distill.save_logits.glob("train-*.npz"))
    tokens = sum(r["tokens"] for r in figures(saved) if r["split"] == "train")
    assert size < 1.2 * tokens * (8 * 4 + 9 * 4) + 6 * 1000  # trained tokens alone


def test_what_is_saved_is_refused_where_it_does_not_belong(saved, tmp_path, chats):
    logits, foreign, other = (
        tmp_path / "logits",
        tmp_path / "foreign",
        str(tmp_path / "other.jsonl"),
    )
    Path(other).write_text(Path(chats).read_text().replace("so", "as"))
    foreign.mkdir()
    (foreign / "about.json").write_text("[]")
    shutil.copytree(saved.config.distill.save_logits, logits)
    config = replace(
        saved.config,
        out=tmp_path / "run",
        distill=replace(saved.config.distill, save_logits=logits),
    )
    for change, says in [
        ({"top_k": 4}, "another top_k"),
        ({"temperature": 2.0}, "another temperature"),
        ({"template": "r1"}, "another template"),
        ({"weights": (1.0,), "chats": (other,)}, "another data"),
        ({"save_logits": foreign}, "another"),
    ]:
        with pytest.raises(DataError, match=says) as error:
            run(replace(config, distill=replace(config.distill, **change)))
        assert "\n" not in str(error.value)
        assert "--distill.save-logits" in str(error.value)


def test_a_damaged_file_is_refused_and_a_missing_one_asked_for_again(saved, tmp_path):
    training, logits = saved.training, tmp_path / "logits"
    (tmp_path / "rebuilt").mkdir()
    shutil.copytree(saved.config.distill.save_logits, logits)
    first, second = logits / "train-000000.npz", logits / "train-000001.npz"
    store = LogitStore(logits, training.open_store().made_for)
    whole, never = first.read_bytes(), pytest.fail
    with use_mesh(saved.config.mesh):
        batch = training.build(tmp_path / "rebuilt").source.source.batch(0, saved.state)
        said = store(batch, "train-000000", never)
        mask = np.asarray(batch["trained"][..., 1:], bool)
        live = training.teacher(batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(np.asarray(a)[mask], np.asarray(b)[mask]),
            said,
            live,
        )
        halves = store(
            {name: x.reshape(2, -1, x.shape[-1]) for name, x in batch.items()},
            "train-000000",
            never,
        )  # other micro-batches, the same rows
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a[0], np.concatenate(b)), said, halves
        )
        for content, says in [
            (second.read_bytes(), "is of other rows"),
            (whole[:100], "cannot be read as saved logits: delete it"),
            (b"", "cannot be read"),
        ]:
            first.write_bytes(content)
            with pytest.raises(DataError, match=says) as error:
                store(batch, "train-000000", never)
            assert "\n" not in str(error.value)
        first.write_bytes(whole)
        found = dict(np.load(first))
        for wrong in (
            {"index": found["index"] + 320},
            {"log_prob": found["log_prob"] * np.nan},
            {"index": found["index"][1:]},
            {"log_prob": -found["log_prob"]},
            {"index": np.array([{}] * 3, object)},
        ):
            np.savez(first, **found | wrong)
            with pytest.raises(DataError, match=r"does not hold log-probabilities|cannot be read"):
                store(batch, "train-000000", never)
        first.unlink()
        store(batch, "train-000000", training.teacher)
    again = dict(np.load(first))
    assert found.keys() == again.keys()
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_a_run_goes_on_with_its_own_teacher_alone(saved, big, tmp_path):
    shutil.copytree(saved.folder, tmp_path / "run")
    shutil.copytree(big, tmp_path / "big")
    manifest = tmp_path / "big" / "checkpoints" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    config = replace(
        saved.config,
        out=tmp_path / "run",
        distill=replace(saved.config.distill, teacher=tmp_path / "big", save_logits=None),
    )
    with pytest.raises(DataError, match="other weights"):
        run(replace(config, train=replace(config.train, steps=8)))


@pytest.fixture(scope="module")
def own(settings_of, learnt, tmp_path_factory):
    """Adapters of the student learn from its own answers."""
    config = settings_of(
        tmp_path_factory.mktemp("own"),
        {"steps": 6, "batch": 8, "micro_batch": 4, "eval_every": 6, "save_every": 3},
        chats=(),
        tasks=("addition:1",),
        on_policy=True,
        sampling=SamplingConfig(group=4, max_new=8, eval_problems=8),
    )
    return run(
        replace(
            config,
            init=learnt.folder,
            data=replace(config.data, sequence=40),
            lora=LoraConfig(rank=2),
        )
    )


@pytest.mark.long
def test_a_student_learns_on_its_own_answers(own):
    records = figures(own)
    train, [held] = ([r for r in records if r["split"] == split] for split in ("train", "held_out"))
    assert np.mean([r["kl"] for r in train[-2:]]) < np.mean([r["kl"] for r in train[:2]])
    assert {"kl", "accuracy", "parsed", "length", "entropy"} <= train[0].keys()
    assert {
        "kl",
        "accuracy",
        "accuracy_low",
    } <= held.keys()
    assert 8 <= train[0]["tokens"] <= 64
    assert train[0]["tokens"] == 8 * train[0]["length"]
    groups = json.loads((own.folder / "rollouts.jsonl").read_text().splitlines()[0])["groups"]
    assert [len(group["samples"]) for group in groups] == [4, 4]
    lines = own.parts.report.finish(own.state, own.folder)
    assert "kl.png" in lines[0]
    assert (
        lines[1] == f"pictures: {own.folder / 'accuracy.png'}, {own.folder / 'load.png'}, "
        f"{own.folder / 'max_violation.png'}"
    )
    assert (own.folder / "chat_template.jinja").exists()
    assert "right" in own.parts.report.progress(train[0])


@pytest.mark.long
def test_a_teacher_moves_adapters_alone(own, learnt):
    tuned, before = jax.device_get((own.state.params, learnt.state.params))
    moved = [np.abs(x).max() > 0 for x in jax.tree.leaves(tuned)]
    assert all(moved)  # "b" begins as zeros
    jax.tree.map(np.testing.assert_array_equal, own.state.frozen["base"], before)


@pytest.mark.long
def test_own_answers_go_on_bit_for_bit(own, tmp_path):
    shutil.copytree(own.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    resumed = run(replace(own.config, out=tmp_path / "run"))
    same(resumed.state, own.state)
    assert figures(resumed) == figures(own)


@pytest.mark.long
def test_what_is_drawn_is_what_is_learnt(own):
    """The loss is over the tokens that the student drew, under reverse KL, whatever is in the
    prompts and behind the end."""
    training, answers, state = own.training, own.parts.source.answers, own.state
    bytes_V = training.tokenizer.bytes_V
    with use_mesh(own.config.mesh):
        problems = training.problems.training(0, 2)
        texts, graded = answers.draw(state, problems, 4, jax.random.key(0))
        batch = answers.taught(texts)
        _, measure = compile_match(own.parts.spec, training.distill, bytes_V, training.teacher)
        sums = measure(state.params, state, batch)
    assert sums["tokens"] == sum(sample.tokens for sample in graded)
    assert direction(training.distill) == "reverse"
    assert np.array_equal(np.asarray(batch["trained"]).reshape(8, -1)[:, 1:], texts["mask"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher": None}, "needs a teacher"),
        ({"teacher": "nowhere"}, "there is no folder nowhere"),
        ({"chats": ()}, "nothing to learn from"),
        ({"top_k": 320}, "distill.top_k is 320"),
        ({"top_k": -1}, "distill.top_k is -1"),
        ({"temperature": 0.0}, "distill.temperature is 0.0"),
        ({"cross_entropy": 1.0}, "distill.cross_entropy is 1.0"),
        ({"save_logits": "logits"}, "say how many"),
        ({"save_logits": "logits", "on_policy": True, "top_k": 4}, "choose one"),
        ({"on_policy": True}, "no distill.chats"),
        (
            {"on_policy": True, "tasks": ("addition:1",), "chats": (), "cross_entropy": 0.5},
            "set it to 0",
        ),
        (
            {
                "on_policy": True,
                "tasks": ("addition:1",),
                "chats": (),
                "sampling": SamplingConfig(group=3),
            },
            "multiple of distill.sampling.group 3",
        ),
        (
            {
                "on_policy": True,
                "tasks": ("addition:1",),
                "chats": (),
                "sampling": SamplingConfig(4, max_new=32),
            },
            "must hold a prompt",
        ),
        (
            {
                "on_policy": True,
                "tasks": ("additon:1",),
                "chats": (),
                "sampling": SamplingConfig(4, max_new=8),
            },
            "did you mean 'addition'",
        ),
        ({"on_policy": True, "tasks": ("addition:1",), "chats": (), "init": None}, "--init"),
        (
            {"vocab": 300, "init": None},
            "vocabulary of 320 and the student one of 300: set --model.vocab 320",
        ),
    ],
)
def test_bad_input_is_one_sentence(settings_of, learnt, tmp_path, change, says):
    distill = {
        name: Path(value) if isinstance(value, str) else value
        for name, value in change.items()
        if name not in ("vocab", "init")
    }
    config = replace(
        settings_of(tmp_path / "run", **distill), init=change.get("init", learnt.folder)
    )
    config = replace(config, model=replace(config.model, vocab=change.get("vocab", 320)))
    with pytest.raises((ConfigError, DataError, RunError, WeightsError), match=says) as error:
        run(config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_teacher_that_reads_otherwise_is_refused(settings_of, learnt, big, tmp_path):
    shutil.copytree(big, tmp_path / "big")
    file = tmp_path / "big" / "tokenizer.json"
    file.write_text(file.read_text().replace("<think>", "<thought>"))
    with pytest.raises(
        DataError, match="another tokenizer than the student: let the student learn from its texts"
    ):
        run(replace(settings_of(tmp_path / "run", teacher=tmp_path / "big"), init=learnt.folder))
    training, config = learnt.training, learnt.config
    long = replace(config, data=replace(config.data, sequence=5000))
    with pytest.raises(ConfigError, match="4096 positions that the teacher"):
        training.teacher.check(long, training.tokenizer)
