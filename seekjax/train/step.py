"""One optimizer step: gradients over micro-batches, update, balance bias, metrics."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from seekjax.config import ModelConfig
from seekjax.model.quantile import quantile_bias
from seekjax.model.routing import load_entropy, max_violation, update_bias
from seekjax.train.loss import Criterion, NextToken, forward, target_mask
from seekjax.train.schedule import average_decay, balance_rate, learning_rate
from seekjax.train.skip import is_good, is_spike, keep_unless, norms, with_newest
from seekjax.train.state import Params, RunSpec, TrainState
from sharding.mesh import platform
from sharding.place import put_whole
from sharding.rules import constrain, sharding

BATCH = "- batch"  # micro-batches, sequences of one forward pass


def train_step(
    spec: RunSpec,
    criterion: Criterion,
    state: TrainState,
    batch: dict[str, jax.Array],
) -> tuple[TrainState, dict[str, Any]]:
    """Return the state after one optimizer step, and its metrics.

    `batch`: arrays [A, B, ...]; A micro-batches make one step, and how they are cut changes
    nothing. An update whose loss or gradient is not finite, or that is a spike if the config looks
    for those, is skipped: only the step and the learning rate's count of steps go on.
    """
    train = spec.config.train
    totals = criterion.totals(batch)
    grads, sums = accumulate(spec, criterion, state, batch, totals)
    experts = sums.pop("experts")

    # The weights.
    updates, opt_state = spec.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params, ema, 1 - average_decay(spec.config)(state.step))

    # The balance bias: no gradient, once per step, from the load of the whole batch.
    gamma = balance_rate(spec.config)(state.step)
    balance = update_biases(state.balance, experts, gamma, spec.config.model)

    # Whether the update is made.
    loss, norm = sums["loss"], optax.tree.norm(grads)
    good = is_good(loss, norm)
    if train.spike:
        *others, recent = cast(tuple, opt_state)
        good &= ~is_spike(loss, norm, recent, train.spike)
        opt_state = (*others, with_newest(recent, loss, norm))

    metrics = sums.pop("maxima", {}) | sums | criterion.metrics(batch, totals)
    metrics |= {
        "learning_rate": learning_rate(spec.config)(state.step),
        "grad_norm": norm,
        "skipped": jnp.where(good, 0.0, 1.0),
        "grad_norms": norms(grads),
        "experts": expert_metrics(experts, balance),
    }
    after = state.replace(params=params, opt_state=opt_state, balance=balance, ema=ema)
    state = keep_unless(good, after, state).replace(step=state.step + 1)
    return state, metrics


def accumulate(
    spec: RunSpec,
    criterion: Criterion,
    state: TrainState,
    batch: dict[str, jax.Array],
    totals: Any,
) -> tuple[Params, dict[str, Any]]:
    """Return the gradients and the figures of all micro-batches of a step."""

    def gradient(piece: dict[str, jax.Array]) -> tuple[Params, dict[str, Any]]:
        return jax.grad(criterion.loss, has_aux=True)(state.params, state, piece, totals)

    first = jax.tree.map(lambda x: x[0], batch)
    if len(batch["tokens"]) == 1:
        return gradient(first)

    # Inlined, and traced once for its shapes and for the loop.
    gradient = jax.jit(gradient, inline=True)

    # Sums start from zeros with the sharding of the weights, so that the loop keeps it.
    shapes = jax.eval_shape(gradient, first)
    grads, figures = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    zeros = jax.tree.map(constrain, grads, spec.axes["params"]), figures

    def add(sums, piece):
        return join(sums, gradient(piece)), None

    return jax.lax.scan(add, zeros, batch)[0]


def join(before: tuple, now: tuple) -> tuple:
    """Return gradients and figures of one more micro-batch: sums, but maxima under "maxima"."""
    (old_grads, old), (new_grads, new) = before, now
    figures = {
        name: jax.tree.map(jnp.maximum if name == "maxima" else jnp.add, old[name], new[name])
        for name in old
    }
    return jax.tree.map(jnp.add, old_grads, new_grads), figures


def update_biases(
    balance: dict,
    experts: dict,
    gamma: jax.Array,
    model: ModelConfig,
) -> dict:
    """Return the routing biases after a step; modules that reported a load move, others stay.

    Quantile balancing has no rate, but a gamma of 0 stops it too.
    """
    share = model.experts_per_token / model.experts

    def update(bias_LE: jax.Array, layers: dict[str, jax.Array]) -> jax.Array:
        if model.bias_update == "sign":
            return update_bias(bias_LE, layers["load_E"], gamma)
        new_LE = quantile_bias(bias_LE, layers["gaps_EN"], share)
        return jnp.where(gamma > 0, new_LE, bias_LE)

    moved = {}
    for name, biases in balance.items():
        if name in experts:
            biases = jax.tree.map(partial(update, layers=experts[name]), biases)
        moved[name] = biases
    return moved


def expert_metrics(experts: dict, balance: dict) -> dict[str, jax.Array]:
    """Return figures per expert layer, then prediction module.

    load [L, E]; MaxVio, entropy, dropped share and the norm of the bias, each [L].
    """
    if not experts:
        return {}

    load_LE = jnp.concatenate([jnp.atleast_2d(layer["load_E"]) for layer in experts.values()])
    dropped_L = jnp.concatenate([jnp.atleast_1d(layer["dropped"]) for layer in experts.values()])
    biases = [jax.tree.leaves(balance[name])[0] for name in experts]
    bias_LE = jnp.concatenate([jnp.atleast_2d(bias) for bias in biases])
    return {
        "load": load_LE,
        "max_violation": max_violation(load_LE),
        "entropy": load_entropy(load_LE),
        "dropped": dropped_L / jnp.maximum(load_LE.sum(-1), 1),
        "bias_norm": jnp.linalg.norm(bias_LE, axis=-1),
    }


def eval_step(
    spec: RunSpec,
    params: Params,
    state: TrainState,
    batch: dict,
    bytes_V: jax.Array,
) -> dict[str, jax.Array]:
    """Return summed nats, tokens and bytes of text over {"tokens", "segments", "trained"?}.

    Arrays are [B, T + 1]; `params` are the weights to measure.
    """
    config = spec.config
    weights = spec.weights(params, state.frozen)
    _, nll = forward(spec.model, config, weights, state.balance, batch, mtp=False)

    mask_BT = target_mask(batch, 1, config.data.mask_documents)
    size_BT = bytes_V[batch["tokens"][:, 1:]]
    return {
        "nats": nll[0],
        "tokens": mask_BT.sum(),
        "bytes": jnp.where(mask_BT, size_BT, 0).sum(),
    }


def compiler_options() -> dict[str, Any] | None:
    """Return the compiler's options for the steps of a run, None for its defaults.

    On a CPU, LLVM's first level of optimisation instead of its third makes them no slower, in two
    thirds of the time; a level in XLA_FLAGS has precedence.
    """
    level = "xla_backend_optimization_level"
    if platform() != "cpu" or level in os.environ.get("XLA_FLAGS", ""):
        return None
    return {level: 1}


def compile_train(spec: RunSpec, criterion: Criterion) -> Callable:
    """Return the jitted, donated train step, each array where the rules put it on the mesh."""
    places = spec.shardings()
    return jax.jit(
        partial(train_step, spec, criterion),
        in_shardings=(places, sharding(BATCH)),
        out_shardings=(places, sharding("")),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def compile_text_train(
    spec: RunSpec, criterion: Callable[[RunSpec, ArrayLike], Criterion], bytes_V: np.ndarray
) -> "WithBytes":
    """Return the jitted, donated train step of a criterion on text."""
    places = spec.shardings()

    def update(state: TrainState, batch: dict[str, jax.Array], bytes_V: jax.Array):
        return train_step(spec, criterion(spec, bytes_V), state, batch)

    update = jax.jit(
        update,
        in_shardings=(places, sharding(BATCH), sharding("")),
        out_shardings=(places, sharding("")),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )
    return WithBytes(update, bytes_V)


def compile_gradient(spec: RunSpec, make_criterion: Callable[..., Criterion]) -> Callable:
    """Return the jitted gradient (state, batch, ...) of the first micro-batch of a step.

    It changes no state. The criterion is made from the further arguments.
    """

    def gradient(state: TrainState, batch: dict[str, jax.Array], *arguments: Any) -> Params:
        criterion = make_criterion(*arguments)
        first = jax.tree.map(lambda x: x[0], batch)
        loss = jax.grad(criterion.loss, has_aux=True)
        return loss(state.params, state, first, criterion.totals(batch))[0]

    return jax.jit(gradient, out_shardings=spec.shardings().params)


def compile_eval(spec: RunSpec, bytes_V: np.ndarray) -> "WithBytes":
    """Return the jitted eval step (params, state, batch), which takes the weights to measure."""
    places = spec.shardings()
    measure = jax.jit(
        partial(eval_step, spec),
        in_shardings=(places.params, places, sharding("batch"), sharding("")),
        out_shardings=sharding(""),
        compiler_options=compiler_options(),
    )
    return WithBytes(measure, bytes_V)


def compile_steps(spec: RunSpec, bytes_V: np.ndarray) -> tuple["WithBytes", "WithBytes"]:
    """Return the train step and the eval step of pre-training."""
    return compile_text_train(spec, NextToken, bytes_V), compile_eval(spec, bytes_V)


class WithBytes:
    """A jitted function that is given the bytes of each token, int32 [V], as its last argument.

    As a constant they would be part of the compiled program, and a program could not be reused from
    the cache for a corpus with another vocabulary.
    """

    def __init__(self, function: Any, bytes_V: ArrayLike):
        self.function = function
        self.bytes_V = np.asarray(bytes_V)
        self.placed: jax.Array | None = None  # on the devices, from the first call on

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        if self.placed is None:
            self.placed = put_whole(self.bytes_V)
        return self.function(*arguments, self.placed)

    def lower(self, *arguments: Any) -> Any:
        """Return the lowered function; what is compiled from it takes the bytes, too."""
        return self.function.lower(*arguments, self.bytes_V)

    def trace(self, *arguments: Any) -> Any:
        """Return the traced function."""
        return self.function.trace(*arguments, self.bytes_V)
