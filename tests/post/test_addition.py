"""The smoke test of reinforcement, from nothing: a base model that has read sums by somebody who forgets three carries in four learns to carry, because
only right answers pay; and learns nothing where rewards are dealt out at random."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from configs.countdown import config as countdown
from configs.grpo import config as grpo
from seekjax.config import GrpoConfig, ModelConfig, SftConfig
from seekjax.post.grpo import Reinforcement
from seekjax.post.sft import FineTuning
from seekjax.train import metrics
from seekjax.train.loop import fit
from sharding.mesh import MeshConfig

ONE = MeshConfig(data=1)
TASK = ("addition:3",)
MODEL = ModelConfig(vocab=272, embed=64, layers=2, context=256, heads=4, q_latent=32, kv_latent=32, nope=16, rotary=16, value=16, hidden=128, expert_hidden=32,
                    experts=4, experts_per_token=2, expert_groups=2, groups_per_token=2, mtp_depth=0, init_std=0.07)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    train = replace(countdown.train, steps=250, log_every=50, eval_every=250, save_every=250)
    fit(replace(countdown, model=MODEL, mesh=ONE, out=out, train=train, data=replace(countdown.data, sequence=192),
                optimizer=replace(countdown.optimizer, warmup=20), post=SftConfig(tasks=TASK, template="v3", attempts=True)), FineTuning)
    return out


class Shuffled(Reinforcement):
    """The control: every sample gets the reward of another one of the rollout."""

    def drawn_groups(self, state):
        honest, random = self.judge, np.random.default_rng(self.rollouts)

        def shuffled(texts, problems, group):
            judged = honest(texts, problems, group)
            return [replace(one, reward=judged[other].reward) for one, other in zip(judged, random.permutation(len(judged)))]

        shuffled.training, shuffled.prompt = honest.training, honest.prompt
        self.judge = shuffled
        try:
            return super().drawn_groups(state)
        finally:
            self.judge = honest


def held_out(base, out, stage):
    """Accuracy on held-out problems after some steps."""
    steps = 24
    fit(replace(grpo, init=base, out=out, mesh=ONE, data=replace(grpo.data, sequence=80), optimizer=replace(grpo.optimizer, learning_rate=1e-3),
                train=replace(grpo.train, steps=steps, batch=64, eval_every=steps, save_every=steps),
                post=GrpoConfig(tasks=TASK, prompts=8, group=8, max_new=60, eval_problems=256)), stage)
    [record] = [one for one in metrics.read(out) if one["split"] == "held_out"]
    first = next(one for one in metrics.read(out) if one["split"] == "train")
    print(first["accuracy"], record)
    return record


def test_rewards_teach_to_carry_and_shuffled_ones_do_not(base, tmp_path):
    assert jax.device_count()
    record = held_out(base, tmp_path / "shuffled", Shuffled)
    after = held_out(base, tmp_path / "honest", Reinforcement)
    assert after["accuracy"] >= record["accuracy"] + 0.2
