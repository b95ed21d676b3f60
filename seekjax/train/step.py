"""One optimizer step: gradients over micro-batches, update, balance bias, metrics."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from seekjax.model.routing import load_entropy, max_violation, update_bias
from seekjax.train.loss import Criterion, NextToken, forward, target_mask
from seekjax.train.schedule import balance_rate, learning_rate
from seekjax.train.state import RunSpec, TrainState
from sharding.rules import constrain, sharding

BATCH = "- batch"  # micro-batches, sequences of one forward pass


def train_step(
    plan: RunSpec, criterion: Criterion, state: TrainState, batch: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`batch`: arrays [A, B, ...]; A micro-batches make one step, and how they are cut changes
    nothing."""
    totals = criterion.totals(batch)

    def gradient(piece):
        return jax.grad(criterion.loss, has_aux=True)(state.params, state, piece, totals)

    first = jax.tree.map(lambda x: x[0], batch)
    if len(batch["tokens"]) == 1:
        grads, seen = gradient(first)
    else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, first))
        zeros = jax.tree.map(constrain, zeros[0], plan.axes["params"]), zeros[1]
        (grads, seen), _ = jax.lax.scan(
            lambda sums, piece: (joined(sums, gradient(piece)), None), zeros, batch
        )

    updates, opt_state = plan.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    gamma, experts = balance_rate(plan.config)(state.step), seen.pop("experts")
    balance = {
        name: jax.tree.map(
            lambda bias, name=name: update_bias(bias, experts[name]["load_E"], gamma), biases
        )
        if name in experts
        else biases
        for name, biases in state.balance.items()
    }
    ema = state.ema and jax.tree.map(
        lambda old, new: old + (1 - plan.config.train.ema) * (new - old), state.ema, params
    )
    metrics = (
        seen.pop("maxima", {})
        | seen
        | criterion.metrics(batch, totals)
        | {
            "learning_rate": learning_rate(plan.config)(state.step),
            "grad_norm": optax.tree.norm(grads),
            "experts": expert_metrics(experts, balance, plan.config.model.experts_per_token),
        }
    )
    return state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, balance=balance, ema=ema
    ), metrics


def joined(before: tuple, now: tuple) -> tuple:
    """Gradients and figures of one more micro-batch: sums, but for "maxima"."""
    (grads, seen), (more, also) = before, now
    rest = {name: value for name, value in seen.items() if name != "maxima"}
    both = jax.tree.map(jnp.add, rest, {name: also[name] for name in rest})
    if "maxima" in seen:
        both["maxima"] = jax.tree.map(jnp.maximum, seen["maxima"], also["maxima"])
    return jax.tree.map(jnp.add, grads, more), both


def expert_metrics(seen: dict, balance: dict, experts_per_token: int) -> dict[str, jax.Array]:
    """Per expert layer (then prediction module): load [L, E], MaxVio, entropy, dropped share and
    the norm of the bias, each [L]."""
    if not seen:
        return {}
    load_LE = jnp.concatenate([jnp.atleast_2d(layer["load_E"]) for layer in seen.values()])
    dropped_L = jnp.concatenate([jnp.atleast_1d(layer["dropped"]) for layer in seen.values()])
    bias_LE = jnp.concatenate([jnp.atleast_2d(jax.tree.leaves(balance[name])[0]) for name in seen])
    return {
        "load": load_LE,
        "max_violation": max_violation(load_LE),
        "entropy": load_entropy(load_LE),
        "dropped": dropped_L / jnp.maximum(load_LE.sum(-1), 1),
        "bias_norm": jnp.linalg.norm(bias_LE, axis=-1),
    }


def eval_step(
    plan: RunSpec, bytes_V: jax.Array, params, state: TrainState, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Summed nats, tokens and bytes of text over a batch {"tokens", "segments", "trained"?} [B, T +
    1]."""
    _, nll = forward(
        plan.model, plan.config, plan.weights(params, state.frozen), state.balance, batch, mtp=False
    )
    mask_BT = target_mask(batch, 1, plan.config.data.mask_documents)
    return {
        "nats": nll[0],
        "tokens": mask_BT.sum(),
        "bytes": jnp.where(mask_BT, bytes_V[batch["tokens"][:, 1:]], 0).sum(),
    }


def compile_train(plan: RunSpec, criterion: Criterion):
    """The jitted, donated train step, with every array where the rules put it on the mesh in
    use."""
    places = plan.shardings()
    return jax.jit(
        partial(train_step, plan, criterion),
        in_shardings=(places, sharding(BATCH)),
        out_shardings=(places, sharding("")),
        donate_argnums=0,
    )


def compile_steps(plan: RunSpec, bytes_V):
    """The train step of pre-training, and the eval step, which takes the weights to measure beside
    the state."""
    places, bytes_V = plan.shardings(), jnp.asarray(bytes_V)
    evaluate = jax.jit(
        partial(eval_step, plan, bytes_V),
        in_shardings=(places.params, places, sharding("batch")),
        out_shardings=sharding(""),
    )
    return compile_train(plan, NextToken(plan, bytes_V)), evaluate
