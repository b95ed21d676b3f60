"""Group relative policy optimisation as a stage of the loop: rollouts where the batches were
(DeepSeekMath, R1, V3.2; formulas in seekjax/config/recipes.py).
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config
from seekjax.config.recipes import objective_of
from seekjax.data import read_tokenizer
from seekjax.errors import ConfigError, need
from seekjax.post.rl.objective import Objective, Totals, advantages, policy_loss
from seekjax.post.rl.preflight import preflight
from seekjax.post.rollout.grader import Judge, Judged
from seekjax.post.rollout.log import Watch
from seekjax.post.rollout.sampler import Sampler, everywhere, merged, minibatch
from seekjax.train.lora import make_plan
from seekjax.train.loss import balance_loss, loads
from seekjax.train.score import log_probs
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import BATCH, compile_train
from sharding.rules import constrain, sharding, split_by


class GroupRelative:
    """The criterion: train.loss.Criterion on batches of texts and their advantages."""

    def __init__(self, plan: RunSpec, objective: Objective):
        self.plan, self.objective, self.post = plan, objective, plan.config.post

    def totals(self, batch: dict[str, Any]) -> Totals:
        micro, sequences = batch["tokens"].shape[:2]
        return Totals(
            jnp.maximum(batch["mask"].sum(), 1).astype(jnp.float32),
            micro * sequences,
            float(self.post.max_new),
        )

    def loss(self, params, state: TrainState, piece: dict[str, Any], totals: Totals):
        config = self.plan.config
        weights = self.plan.weights(params, state.frozen)
        logp_BT, output = log_probs(
            self.plan.model, config, weights, state.balance, piece, self.post.temperature
        )
        old_BT = piece.get(
            "old", jax.lax.stop_gradient(logp_BT)
        )  # the first update of a rollout is on its own policy: the ratio is exactly 1
        loss, seen = policy_loss(
            self.objective,
            logp_BT,
            old_BT,
            piece["log_prob"][:, 1:],
            piece.get("ref"),
            piece["advantage"],
            piece["mask"],
            totals,
        )
        balanced = balance_loss(output) / totals.sequences
        shares = {
            name: getattr(seen, name) / totals.tokens
            for name in (
                "clip_low",
                "clip_high",
                "ratio",
                "log_ratio",
                *(("kl",) if "ref" in piece else ()),
            )
        }
        return loss + config.train.balance_loss * balanced, {
            "loss": loss,
            "balance_loss": balanced,
            **shares,
            "masked": seen.masked / totals.sequences,
            "maxima": {"gap": seen.gap},
            "experts": loads(output),
        }

    def metrics(self, batch: dict[str, Any], totals: Totals) -> dict[str, jax.Array]:
        return {"tokens": totals.tokens}


class Reinforcement:
    """The stage of `python train.py grpo`; see train.stage.Stage for the methods."""

    alike = True

    def __init__(self, config: Config):
        post = config.post
        check(config)
        self.config = (
            config
            if post.move_bias
            else replace(config, train=replace(config.train, balance_rate=0.0))
        )
        self.objective = objective_of(post)
        self.tokenizer = read_tokenizer(Path(config.data.tokenizer), config.model.vocab)
        self.judge = Judge(config, self.tokenizer, self.objective.overlong)
        self.rows = post.prompts * post.group
        self.rollouts, self.cursor, self.queue, self.seen = 0, 0, [], {}

    def about(self) -> list[str]:
        post = self.config.post
        return [
            f"tasks: {', '.join(post.tasks)}; rewards: "
            f"{', '.join(f'{weight:g} {name}' for name, weight in self.judge.reward.weights.items())}; "
            ""
            f"{self.tokenizer.size} token ids",
            f"recipe: {post.recipe}; {post.prompts} prompts x {post.group} samples of up "
            f"to {post.max_new} tokens a rollout, from {self.config.init}",
        ]

    def manifest(self) -> dict[str, Any]:
        return {
            "tasks": list(self.config.post.tasks),
            "init": str(self.config.init),
            "tokenizer": self.tokenizer.fingerprint(),
        }

    def open(self, folder: Path) -> None:
        post = self.config.post
        need(
            post.prompts % split_by("batch") == 0,
            f"post.prompts {post.prompts} must be a multiple of the {split_by('batch')} "
            "devices that share a batch.",
        )
        self.plan = make_plan(self.config, ("reference",) if self.objective.kl else ())
        self.update = compile_train(self.plan, GroupRelative(self.plan, self.objective))
        self.sampler = Sampler(self.config, self.tokenizer)
        self.score = jax.jit(self._score, out_shardings=sharding("batch"))
        self.copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
        self.watch = Watch(self, folder)
        self.judge.chat.save(folder, jax.process_index() == 0)
        self.refresh = False

    def tokens(self, step: int) -> int:
        return self.drawn * self.config.train.batch // self.rows  # of what one update learns from

    def position(self) -> Any:
        return None if self.queue else {"rollouts": self.rollouts, "cursor": self.cursor}

    def seek(self, position: Any) -> None:
        self.rollouts, self.cursor = position["rollouts"], position["cursor"]

    def batch(self, step: int, state: TrainState) -> dict[str, Any]:
        if not self.queue:
            self.queue = self.collect(step, state)
        return self.queue.pop(0)

    def step(self, state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
        if self.refresh:
            state, self.refresh = (
                state.replace(frozen=state.frozen | {"reference": self.copy(state.params)}),
                False,
            )
        state, metrics = self.update(state, batch)
        return state, metrics | self.seen

    def collect(self, step: int, state: TrainState) -> list[dict[str, Any]]:
        """A rollout: texts, their rewards and advantages, the probabilities they are compared with,
        cut into the batches of its updates.
        """
        post, every = self.config.post, self.config.post.reference_every
        jax.block_until_ready(state)  # else the update before would count as drawing
        self.watch.before(step, state)
        if step == 0 and post.preflight:
            preflight(self, state, self.watch.path.parent)
        began = time.perf_counter()
        texts, judged, advantage_B, everything = self.drawn_groups(state)
        drawn_at, self.drawn = time.perf_counter(), sum(one.tokens for one in judged)
        self.seen = self.watch.rollout(step, texts, judged, advantage_B, everything)
        updates = self.rows // self.config.train.batch * post.epochs
        texts |= everywhere({"advantage": advantage_B})
        if updates > 1 or self.objective.truncate:
            texts["old"] = self.score(state.params, state.frozen, state.balance, texts)
        if self.objective.kl:
            self.refresh = bool(every) and self.rollouts > 0 and self.rollouts % every == 0
            reference = state.params if self.refresh else state.frozen["reference"]
            texts["ref"] = self.score(
                reference,
                state.frozen,
                state.balance,
                {name: x for name, x in texts.items() if name != "choice"},
            )
        jax.block_until_ready(texts)
        self.seen |= {
            "seconds_drawing": drawn_at - began,
            "seconds_scoring": time.perf_counter() - drawn_at,
        }
        self.rollouts += 1
        key, orders = self.key(state, "order"), []
        for epoch in range(post.epochs):
            order = (
                np.arange(self.rows)
                if updates == 1
                else np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), self.rows))
            )
            orders += np.split(order, self.rows // self.config.train.batch)
        train = self.config.train
        return [
            minibatch(texts, rows, train.batch // (train.rows), sharding(BATCH)) for rows in orders
        ]

    def drawn_groups(
        self, state: TrainState
    ) -> tuple[dict[str, Any], list[Judged], np.ndarray, tuple[list[Judged], np.ndarray]]:
        """Texts of `prompts` groups, what they are worth, their advantages, and the latter two of
        all that was drawn. With resampling, groups without signal are replaced by others as long as
        rounds are left (DAPO's dynamic sampling); every round has the same shapes.
        """
        post = self.config.post
        kept, judged, advantage_B = self.draw_round(state, 0)
        everything = judged, advantage_B
        for number in range(1, post.rounds if self.objective.resample else 1):
            if (advantage_B.reshape(-1, post.group) != 0).any(1).all():
                break
            texts, fresh, fresh_B = self.draw_round(state, number)
            everything = everything[0] + fresh, np.concatenate([everything[1], fresh_B])
            rows = replaced(advantage_B, fresh_B, post.group)
            kept = merged(kept, texts, rows)
            judged, advantage_B = (
                [(judged + fresh)[row] for row in rows],
                np.concatenate([advantage_B, fresh_B])[rows],
            )
        if not self.objective.keep_routing:
            kept.pop("choice")
        if not self.objective.keep_mask:
            kept.pop("kept", None)
        return kept, judged, advantage_B, everything

    def draw_round(
        self, state: TrainState, number: int
    ) -> tuple[dict[str, Any], list[Judged], np.ndarray]:
        """Texts of the next `prompts` problems, what they are worth, and their advantages."""
        post, variables = (
            self.config.post,
            {"params": self.plan.weights(state.params, state.frozen), "balance": state.balance},
        )
        problems = self.judge.training(self.cursor, post.prompts)
        self.cursor += post.prompts
        texts = self.sampler(
            variables,
            [self.judge.prompt(problem) for problem in problems],
            post.group,
            jax.random.fold_in(self.key(state, "draw"), number),
        )
        judged = self.judge(texts, problems, post.group)
        reward_PG = np.array([one.reward for one in judged], np.float32).reshape(-1, post.group)
        return (
            texts,
            judged,
            np.asarray(
                advantages(reward_PG, np.isfinite(reward_PG), self.objective.advantage)
            ).reshape(-1),
        )

    def evaluate(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Accuracy on held-out problems, one sample each, drawn as in training."""
        post, variables = (
            self.config.post,
            {"params": self.plan.weights(state.params, state.frozen), "balance": state.balance},
        )
        judged, chunk = [], self.rows
        for first in range(0, post.eval_problems, chunk):
            problems = self.judge.held_out(first, chunk)
            texts = self.sampler(
                variables,
                [self.judge.prompt(problem) for problem in problems],
                1,
                jax.random.fold_in(jax.random.key(self.config.train.seed), first),
            )
            judged += self.judge(texts, problems, 1)
        return self.watch.held_out(judged[: post.eval_problems])

    def derive(self, metrics: dict[str, float]) -> dict[str, float]:
        return {}

    def describe(self, record: dict[str, Any]) -> str:
        return self.watch.line(record)

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        return self.watch.finish(state, folder)

    def key(self, state: TrainState, use: str) -> jax.Array:
        """The root of this rollout's randomness, for one use."""
        root = jax.random.fold_in(jax.random.key(self.config.train.seed), self.rollouts)
        return jax.random.fold_in(root, ("draw", "order").index(use))

    def _score(self, params, frozen, balance, texts: dict[str, Any]) -> jax.Array:
        """log_probs of a whole rollout, as many rows at a time as a forward pass of training
        has.
        """
        train = self.config.train
        pieces = jax.tree.map(
            lambda x: constrain(
                x.reshape(-1, train.rows, *x.shape[1:]),
                "- batch" + " -" * (x.ndim - 1),
            ),
            texts,
        )
        weights = self.plan.weights(params, frozen)
        logp_ABT = jax.lax.map(
            lambda piece: log_probs(
                self.plan.model, self.config, weights, balance, piece, self.config.post.temperature
            )[0],
            pieces,
        )
        return logp_ABT.reshape(-1, logp_ABT.shape[-1])


def replaced(old_B: np.ndarray, new_B: np.ndarray, group: int) -> np.ndarray:
    """Which rows of old and new together to keep: groups of new with signal take the places of
    those of old without, in order.
    """

    def signal(advantage_B):
        return (advantage_B.reshape(-1, group) != 0).any(1)

    rows = np.arange(len(old_B)).reshape(-1, group)
    fresh = np.flatnonzero(signal(new_B))
    idle = np.flatnonzero(~signal(old_B))[: len(fresh)]
    rows[idle] = len(old_B) + np.arange(len(new_B)).reshape(-1, group)[fresh[: len(idle)]]
    return rows.reshape(-1)


def check(config: Config) -> None:
    """Raise ConfigError for settings that do not fit each other."""
    post, train = config.post, config.train
    need(config.init is not None, "reinforcement starts from a model: name its folder with --init.")
    for name in ("prompts", "group", "max_new", "epochs", "rounds", "eval_problems"):
        need(
            getattr(post, name) > 0, f"post.{name} is {getattr(post, name)}: it must be at least 1."
        )
    need(
        post.group > 1,
        "post.group is 1: a sample is compared with others of its group, make it at least 2.",
    )
    need(
        post.temperature > 0,
        f"post.temperature is {post.temperature}: greedy samples are all alike, make it positive.",
    )
    rows = post.prompts * post.group
    need(
        rows % train.batch == 0,
        f"a rollout has post.prompts {post.prompts} x post.group {post.group} = {rows} "
        f"samples: make train.batch {train.batch} divide them.",
    )
    updates = rows // train.batch * post.epochs
    need(
        train.steps % updates == 0,
        f"train.steps {train.steps} must be a multiple of the {updates} steps that a "
        "rollout is learnt from.",
    )
    need(
        not config.kernel.capacity,
        f"kernel.capacity is {config.kernel.capacity}: the sampler drops no tokens, so a "
        "trainer that does would not follow it; make it 0.",
    )
    need(not train.batch_start, "train.batch_start is for pre-training: a rollout has one size.")
    need(
        post.max_new < config.data.sequence,
        f"data.sequence {config.data.sequence} must hold a prompt and post.max_new "
        f"{post.max_new} tokens.",
    )
    try:
        kl = objective_of(post).kl
    except ValueError as error:
        raise ConfigError(str(error).replace("objective.", "post.")) from error
    need(
        not (kl and post.move_bias),
        f"post.kl is {kl} and post.move_bias True: the reference would move with the "
        "balance bias, set one of them to 0 or False.",
    )
