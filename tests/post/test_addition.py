"""The smoke test of reinforcement, from nothing: a base model that has read sums by somebody who forgets three carries in four learns to carry, because
right answers pay; where rewards are dealt out regardless of the answer it does not."""

from dataclasses import replace

import pytest
from configs.countdown import config as countdown
from configs.grpo import config as grpo
from seekjax.config import GrpoConfig, ModelConfig, SftConfig
from seekjax.post.grpo import Reinforcement
from seekjax.post.sft import FineTuning
from seekjax.train import metrics
from seekjax.train.loop import fit
from sharding.mesh import MeshConfig

ONE, TASK, STEPS = MeshConfig(data=1), ("addition:2",), 20
MODEL = ModelConfig(vocab=272, embed=64, layers=2, context=256, heads=4, q_latent=32, kv_latent=32, nope=16, rotary=16, value=16, hidden=128, expert_hidden=32,
                    experts=4, experts_per_token=2, expert_groups=2, groups_per_token=2, mtp_depth=0, init_std=0.07)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    fit(replace(countdown, model=MODEL, mesh=ONE, out=out, data=replace(countdown.data, sequence=128), optimizer=replace(countdown.optimizer, warmup=20),
                train=replace(countdown.train, steps=400, log_every=100, eval_every=400, save_every=400),
                post=SftConfig(tasks=TASK, template="v3", attempts=1.0)), FineTuning)
    return out


def accuracy(base, out, **post):
    """On held-out problems, of the first rollout and after STEPS of them."""
    fit(replace(grpo, init=base, out=out, mesh=ONE, data=replace(grpo.data, sequence=64), optimizer=replace(grpo.optimizer, learning_rate=1e-3),
                train=replace(grpo.train, steps=STEPS, batch=64, log_every=1, eval_every=STEPS, save_every=STEPS),
                post=GrpoConfig(tasks=TASK, prompts=8, group=8, max_new=44, eval_problems=256, **post)), Reinforcement)
    records = metrics.read(out)
    return records[0]["accuracy"], next(one["accuracy"] for one in records if one["split"] == "held_out")


def test_right_answers_that_pay_teach_to_carry_and_dealt_rewards_do_not(base, tmp_path):
    first, after = accuracy(base, tmp_path / "paid")
    _, dealt = accuracy(base, tmp_path / "dealt", rewards=(("benchmarks.dealt:reward", 1.0), ("accuracy", 0.0)))
    assert after >= max(first, dealt) + 0.2
