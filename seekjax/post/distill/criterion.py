"""The criterion of distillation: the divergence of teacher and student at every trained token.

    L = (1 - w) T^2 KL + w CE

KL is KL(teacher || student) or KL(student || teacher) of softmax(logits / T), CE the cross entropy
of the tokens, and w = distill.cross_entropy (1503.02531, section 2). Each is the mean over the
trained tokens. seekjax/kernels/divergence.py has the two directions and their top-k form.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import DistillConfig
from seekjax.kernels.divergence import divergence
from seekjax.model.transformer import Output
from seekjax.post.distill.teacher import Teacher
from seekjax.post.tune.sft import AnswerTokens
from seekjax.train.loss import Totals, balance_loss, forward, loads, target_mask
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import BATCH, WithBytes, compile_gradient, train_step
from sharding.rules import sharding

TARGETS = ("index", "log_prob", "hidden")  # of the teacher, within a batch

Batch = dict[str, jax.Array]
Measure = Callable[[Any, TrainState, Batch], dict[str, jax.Array]]
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


class TeacherMatch:
    """A train.loss.Criterion on {"tokens", "segments", "trained"} with the teacher's targets."""

    def __init__(
        self,
        spec: RunSpec,
        distill: DistillConfig,
        bytes_V: jax.Array,
        head_DV: jax.Array | None,
    ):
        """head_DV: the teacher's, unless only its most likely tokens are compared."""
        self.spec = spec
        self.distill = distill
        self.head_DV = head_DV
        self.answers = AnswerTokens(spec, bytes_V)

    def totals(self, batch: Batch) -> Totals:
        """Return the counts that sums over [A, B, ...] are divided by."""
        return self.answers.totals(batch)

    def sums(
        self, params: Any, state: TrainState, piece: Batch, mtp: bool
    ) -> tuple[jax.Array, jax.Array, Output]:
        """Return sums over the trained tokens of a micro-batch, and the model's output.

        The sums are the KL, and the cross entropy of each prediction depth.
        """
        spec = self.spec
        config = spec.config
        weights = spec.weights(params, state.frozen)
        output, nll = forward(spec.model, config, weights, state.balance, piece, mtp)

        targets: dict[str, Any] = {name: piece[name] for name in TARGETS if name in piece}
        targets["head"] = self.head_DV
        kl_BT = divergence(
            output.hidden_BTD,
            output.head_DV,
            targets,
            direction(self.distill),
            self.distill.temperature,
        )
        mask_BT = target_mask(piece, 1, config.data.mask_documents)
        return jnp.where(mask_BT, kl_BT, 0).sum(), nll, output

    def loss(
        self, params: Any, state: TrainState, piece: Batch, totals: Totals
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return a micro-batch's share of the loss, and its metrics."""
        config = self.spec.config
        share = self.distill.cross_entropy
        kl_sum, nll, output = self.sums(params, state, piece, mtp=True)
        kl = kl_sum / totals.tokens
        ce = nll / totals.tokens
        mtp = ce[1:].mean() if config.model.mtp_depth else jnp.zeros(())
        balance = balance_loss(output) / totals.sequences

        weight = (1 - share) * self.distill.temperature**2
        mtp_weight = self.answers.mtp_weight(state.step)
        loss = weight * kl + mtp_weight * mtp + config.train.balance_loss * balance
        # Without a share, no gradient is computed for the cross entropy, which is only reported.
        if share:
            loss = loss + share * ce[0]
        return loss, {
            "kl": kl,
            "loss": ce[0],
            "mtp_loss": mtp,
            "balance_loss": balance,
            "experts": loads(output),
        }

    def metrics(self, batch: Batch, totals: Totals) -> dict[str, jax.Array]:
        """Return further figures of the step."""
        return self.answers.metrics(batch, totals)

    def measure(self, params: Any, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """Return sums over a batch [A, B, T + 1]."""

        def measure_piece(piece: Batch) -> dict[str, jax.Array]:
            kl, nll, _ = self.sums(params, state, piece, mtp=False)
            return {"kl": kl, "nats": nll[0]}

        pieces = jax.lax.map(measure_piece, batch)
        return jax.tree.map(lambda x: x.sum(0), pieces) | {
            "tokens": self.answers.mask(batch).sum(),
            "bytes": self.answers.metrics(batch, self.totals(batch))["bytes"],
        }


def compile_match(
    spec: RunSpec, distill: DistillConfig, bytes_V: np.ndarray, teacher: Teacher
) -> tuple[Step, Measure]:
    """Return the jitted train step, which donates the state, and the measurement of a batch.

    Both get the teacher's head and the bytes of each token as arguments, so that these are not
    compiled in.
    """
    update, measure = compile_programs(spec, distill)
    update_given, measure_given = WithBytes(update, bytes_V), WithBytes(measure, bytes_V)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        return update_given(state, batch, teacher.head)

    def measure_batch(params: Any, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        return measure_given(params, state, batch, teacher.head)

    return step, measure_batch


def compile_programs(spec: RunSpec, distill: DistillConfig) -> tuple[Callable, Callable]:
    """Return the jitted functions behind `compile_match`, which get head and bytes at each call."""
    places = spec.shardings()
    inputs = places, sharding(BATCH)
    further = sharding("embed vocab"), sharding("")

    def update(
        state: TrainState, batch: Batch, head_DV: jax.Array | None, bytes_V: jax.Array
    ) -> tuple[TrainState, dict[str, Any]]:
        return train_step(spec, TeacherMatch(spec, distill, bytes_V, head_DV), state, batch)

    def measure(
        params: Any, state: TrainState, batch: Batch, head_DV: jax.Array | None, bytes_V: jax.Array
    ) -> dict[str, jax.Array]:
        return TeacherMatch(spec, distill, bytes_V, head_DV).measure(params, state, batch)

    jitted_update = jax.jit(
        update,
        in_shardings=(*inputs, *further),
        out_shardings=(places, sharding("")),
        donate_argnums=0,
    )
    jitted_measure = jax.jit(
        measure, in_shardings=(places.params, *inputs, *further), out_shardings=sharding("")
    )
    return jitted_update, jitted_measure


def compile_taught_gradient(
    spec: RunSpec, distill: DistillConfig, bytes_V: np.ndarray, teacher: Teacher
) -> Callable[[TrainState, Batch], Any]:
    """Return the jitted gradient of a step's first micro-batch (train/step.py)."""

    def criterion(head_DV: jax.Array | None) -> TeacherMatch:
        return TeacherMatch(spec, distill, jnp.asarray(bytes_V), head_DV)

    gradient = compile_gradient(spec, criterion)
    return lambda state, batch: gradient(state, batch, teacher.head)


def direction(distill: DistillConfig) -> Literal["forward", "reverse"]:
    """Return the divergence, auto resolved: reverse on the student's own answers, else forward."""
    if distill.divergence != "auto":
        return distill.divergence
    return "reverse" if distill.on_policy else "forward"
