"""Updates from rollouts: draw, compare with the group, score, and cut into minibatches."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import GrpoConfig, Objective
from seekjax.post.rl.criterion import GroupRelative
from seekjax.post.rl.objective import advantages
from seekjax.post.rl.preflight import preflight
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.log import RolloutLog, mean_entropy, summary
from seekjax.post.rollout.problems import TaskProblems
from seekjax.post.rollout.rollouts import Rollouts
from seekjax.post.rollout.sampler import Texts, minibatch, place_rows, take_rows
from seekjax.post.rollout.statistics import has_reward, has_signal
from seekjax.seeds import root_key
from seekjax.train.score import log_probs
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import BATCH, compile_gradient, compile_train
from sharding.rules import constrain, sharding

DRAW, ORDER = 0, 1  # uses of a rollout's random key


class Groups(NamedTuple):
    """Answers to some problems, `group` of each, and how they compare with their group."""

    texts: Texts
    graded: list[GradedSample]
    advantage_B: np.ndarray
    signal_P: np.ndarray  # of each problem, whether its answers differ in what counts


class RolloutUpdates:
    """A train.training.Source that draws a rollout when its minibatches are used up, and the step.

    A rollout of prompts x group samples makes prompts x group / batch updates, `epochs` times over.
    """

    def __init__(
        self,
        spec: RunSpec,
        grpo: GrpoConfig,
        objective: Objective,
        rollouts: Rollouts,
        problems: TaskProblems,
        folder: Path,
    ):
        self.spec = spec
        self.train = spec.config.train
        self.grpo = grpo
        self.objective = objective
        self.rollouts = rollouts
        self.problems = problems
        self.folder = folder
        self.rows = grpo.prompts * grpo.group  # samples of a rollout
        self.updates = self.rows // self.train.batch * grpo.epochs  # steps of a rollout
        self.log = RolloutLog(folder / "rollouts.jsonl", grpo.group)
        criterion = GroupRelative(spec, grpo, objective)
        self._update = compile_train(spec, criterion)
        self.gradient = compile_gradient(spec, lambda: criterion)
        self._score = compile_score(spec, grpo.temperature)
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

        self.number = 0  # of the next rollout
        self.cursor = 0  # the next training problem
        self.queue: list[Texts] = []  # minibatches that are left of this rollout
        self.metrics: dict[str, float] = {}  # of this rollout
        self.tokens_drawn = 0
        self.reference_due = False  # the next update first makes the policy the reference
        self.next_step = 0  # that the queue is for

    def batch(self, step: int, state: TrainState) -> Texts:
        """Return the next minibatch, of a new rollout if necessary.

        What is left of a rollout is dropped if the run has returned to an earlier policy.
        """
        if step != self.next_step:
            self.queue = []
        self.next_step = step + 1
        if not self.queue:
            self.queue = self.collect(step, state)
        return self.queue.pop(0)

    def step(self, state: TrainState, batch: Texts) -> tuple[TrainState, dict[str, Any]]:
        """Make one optimizer step; donates the state."""
        if self.reference_due:
            reference = self._copy(state.params)
            state = state.replace(frozen=state.frozen | {"reference": reference})
            self.reference_due = False
        state, metrics = self._update(state, batch)
        return state, metrics | self.metrics

    def tokens(self, step: int) -> int:
        """Return the drawn tokens that one update learns from."""
        return self.tokens_drawn * self.train.batch // self.rows

    def get_state(self) -> Any:
        """Return the position, or None while updates of the current rollout are left."""
        return None if self.queue else {"rollouts": self.number, "cursor": self.cursor}

    def set_state(self, position: Any) -> None:
        """Go on from a position that `get_state` returned."""
        self.number, self.cursor = position["rollouts"], position["cursor"]

    def collect(self, step: int, state: TrainState) -> list[Texts]:
        """Draw a rollout, record it, and return the minibatches of its updates."""
        # The update before must not count as time spent drawing.
        jax.block_until_ready(state)
        self.log.start(step)
        if step == 0 and self.grpo.preflight:
            self.preflight(state)

        # Draw. The figures are those of all samples, because the kept ones are selected.
        began = time.perf_counter()
        kept, drawn, drawn_signal_P = draw_groups(
            partial(self.draw_round, state),
            self.objective,
            self.grpo.group,
            self.grpo.rounds,
        )
        drawn_at = time.perf_counter()
        lengths = [sample.tokens for sample in kept.graded]
        self.tokens_drawn = sum(lengths)
        self.log.write(step, kept.graded, kept.advantage_B)
        self.metrics = summary(drawn) | {
            "signal": float(drawn_signal_P.mean()),
            "entropy": mean_entropy(kept.texts, has_reward(kept.graded)),
        }

        # Score
        texts = self.scored(state, kept)
        jax.block_until_ready(texts)
        self.metrics |= {
            "seconds_drawing": drawn_at - began,
            "seconds_scoring": time.perf_counter() - drawn_at,
        }

        # Cut into minibatches, in an order that has the key of the next rollout
        self.number += 1
        micro = self.train.batch // self.train.rows
        placement = sharding(BATCH)
        return [minibatch(texts, rows, micro, placement) for rows in self.orders()]

    def preflight(self, state: TrainState) -> None:
        """Stop the run with a RunError if nothing can be learnt."""
        preflight(
            self.rollouts,
            self.problems,
            self.spec.variables(state),
            self.grpo,
            self.train.seed,
            self.folder,
        )

    def draw_round(self, state: TrainState, number: int) -> Groups:
        """Draw and grade answers to the next `prompts` problems, in round `number` of a rollout."""
        group = self.grpo.group
        problems = self.problems.training(self.cursor, self.grpo.prompts)
        self.cursor += self.grpo.prompts
        variables = self.spec.variables(state)
        key = jax.random.fold_in(self.key(DRAW), number)
        texts, graded = self.rollouts.draw(variables, problems, group, key)

        rewards = [sample.reward for sample in graded]
        reward_PG = np.array(rewards, np.float32).reshape(-1, group)
        advantage_PG = advantages(reward_PG, np.isfinite(reward_PG), self.objective.advantage)
        signal_P = has_signal(graded, group, self.objective.resample)
        return Groups(texts, graded, np.asarray(advantage_PG).reshape(-1), signal_P)

    def scored(self, state: TrainState, groups: Groups) -> Texts:
        """Return a rollout with its advantages and the log-probabilities that updates compare with.

        "old" are the trainer's own, if updates differ from the policy of the rollout; "ref" those
        of the reference, if there is one.
        """
        learnt_B = learnt(groups, self.grpo.group, self.objective.resample)
        placed = place_rows({"advantage": groups.advantage_B, "learnt": learnt_B})
        texts = groups.texts | leave_out(groups.texts, placed["advantage"], placed["learnt"])
        if self.updates > 1 or self.objective.truncate:
            texts["old"] = self._score(state.params, state.frozen, state.balance, texts)
        if self.objective.kl:
            every = self.grpo.reference_every
            self.reference_due = every > 0 and self.number > 0 and self.number % every == 0
            reference = state.frozen["reference"]
            if self.reference_due:
                reference = state.params
            unrouted = {name: x for name, x in texts.items() if name != "choice"}
            texts["ref"] = self._score(reference, state.frozen, state.balance, unrouted)
        return texts

    def orders(self) -> list[np.ndarray]:
        """Return the rows of each update of a rollout, shuffled in every epoch."""
        key = self.key(ORDER)
        orders = []
        for epoch in range(self.grpo.epochs):
            order = np.arange(self.rows)
            if self.updates > 1:
                epoch_key = jax.random.fold_in(key, epoch)
                order = np.asarray(jax.random.permutation(epoch_key, self.rows))
            orders += np.split(order, self.rows // self.train.batch)
        return orders

    def key(self, use: int) -> jax.Array:
        """Return the root of the randomness of rollout `number`, for one use."""
        seed_key = root_key(self.train.seed)
        rollout_key = jax.random.fold_in(seed_key, self.number)
        return jax.random.fold_in(rollout_key, use)


def draw_groups(
    draw_round: Callable[[int], Groups], objective: Objective, group: int, rounds: int
) -> tuple[Groups, list[GradedSample], np.ndarray]:
    """Return the groups to learn from, all drawn samples, and which drawn groups have signal.

    With objective.resample, groups without signal are replaced by others as long as rounds are left
    (DAPO's dynamic sampling). Every round has the same shapes.
    """
    kept = draw_round(0)
    drawn, drawn_signal_P = kept.graded, kept.signal_P
    for number in range(1, rounds if objective.resample else 1):
        if kept.signal_P.all():
            break
        fresh = draw_round(number)
        drawn = drawn + fresh.graded
        drawn_signal_P = np.concatenate([drawn_signal_P, fresh.signal_P])

        groups = select_groups(kept.signal_P, fresh.signal_P)
        rows = (groups[:, None] * group + np.arange(group)).reshape(-1)
        both = kept.graded + fresh.graded
        kept = Groups(
            take_rows(kept.texts, fresh.texts, rows),
            [both[row] for row in rows],
            np.concatenate([kept.advantage_B, fresh.advantage_B])[rows],
            np.concatenate([kept.signal_P, fresh.signal_P])[groups],
        )

    # What the trainer does not replay
    texts = dict(kept.texts)
    if not objective.keep_routing:
        texts.pop("choice")
    if not objective.keep_mask:
        texts.pop("kept", None)
    return kept._replace(texts=texts), drawn, drawn_signal_P


def select_groups(old_P: np.ndarray, new_P: np.ndarray) -> np.ndarray:
    """Return which of the old and the new groups together to keep, by whether they have signal.

    New groups with signal replace old ones without, in order.
    """
    groups = np.arange(len(old_P))
    useful = np.flatnonzero(new_P)
    idle = np.flatnonzero(~old_P)[: len(useful)]
    groups[idle] = useful[: len(idle)] + len(old_P)
    return groups


def learnt(groups: Groups, group: int, resample: bool) -> np.ndarray:
    """Return which samples are learnt from, [B].

    Left out are those whose reward failed, and the groups that resampling could not replace: they
    differ in nothing but their lengths.
    """
    learnt_B = has_reward(groups.graded)
    if resample:
        learnt_B &= np.repeat(groups.signal_P, group)
    return learnt_B


def leave_out(texts: Texts, advantage_B: jax.Array, learnt_B: jax.Array) -> Texts:
    """Return the arrays of a rollout whose other rows are padding: in no sum, mean or load."""
    return _leave_out(texts["segments"], texts["mask"], advantage_B, learnt_B)


@jax.jit
def _leave_out(
    segment_BS: jax.Array, mask_BT: jax.Array, advantage_B: jax.Array, learnt_B: jax.Array
) -> Texts:
    learnt_B1 = learnt_B[:, None]
    return {
        "segments": jnp.where(learnt_B1, segment_BS, 0),
        "mask": mask_BT & learnt_B1,
        "advantage": jnp.where(learnt_B, advantage_B, 0),
    }


def compile_score(spec: RunSpec, temperature: float) -> Callable[..., jax.Array]:
    """Return the jitted log-probabilities (params, frozen, balance, texts) of a rollout."""
    score = partial(score_rollout, spec, temperature)
    return jax.jit(score, out_shardings=sharding("batch"))


def score_rollout(
    spec: RunSpec, temperature: float, params: Any, frozen: Any, balance: Any, texts: Texts
) -> jax.Array:
    """Return log_probs of a rollout, [B, T]; as many rows at a time as in a training step."""
    rows = spec.config.train.rows

    def cut(x: jax.Array) -> jax.Array:
        pieces = x.reshape(-1, rows, *x.shape[1:])
        return constrain(pieces, "- batch" + " -" * (x.ndim - 1))

    weights = spec.weights(params, frozen)

    def score(piece: Texts) -> jax.Array:
        return log_probs(spec.model, spec.config, weights, balance, piece, temperature)[0]

    logp_ABT = jax.lax.map(score, jax.tree.map(cut, texts))
    return logp_ABT.reshape(-1, logp_ABT.shape[-1])
