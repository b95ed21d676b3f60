"""One optimizer step: gradients over micro-batches, update, balance bias, metrics."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from seekjax.model.routing import load_entropy, max_violation, update_bias
from sharding.rules import constrain, sharding

from .loss import Totals, forward, loss, target_mask
from .schedule import balance_rate, learning_rate, mtp_weight
from .state import Plan, TrainState

BATCH = "- batch sequence"  # micro-batches, sequences of one forward pass, tokens


def train_step(plan: Plan, bytes_V: jax.Array, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
    """`batch`: {"tokens", "segments"} [A, B, T + 1]; A micro-batches make one step, and how they are cut changes nothing."""
    config, model = plan.config, plan.model
    micro, sequences = batch["tokens"].shape[:2]
    mask_ABT = jax.vmap(partial(target_mask, by=1, mask_documents=config.data.mask_documents))(batch["segments"])
    totals = Totals(jnp.maximum(mask_ABT.sum(), 1).astype(jnp.float32), micro * sequences)
    weight = mtp_weight(config)(state.step)

    def gradient(piece):
        return jax.grad(partial(loss, model, config), has_aux=True)(state.params, state.balance, piece, totals, weight)

    first = jax.tree.map(lambda x: x[0], batch)
    if micro == 1:
        grads, seen = gradient(first)
    else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, first))
        zeros = jax.tree.map(constrain, zeros[0], plan.axes["params"]), zeros[1]
        (grads, seen), _ = jax.lax.scan(lambda sums, piece: (jax.tree.map(jnp.add, sums, gradient(piece)), None), zeros, batch)

    updates, opt_state = plan.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    gamma = balance_rate(config)(state.step)
    balance = {name: jax.tree.map(lambda bias, name=name: update_bias(bias, seen["experts"][name]["load_E"], gamma), biases)
               for name, biases in state.balance.items()}
    ema = state.ema and jax.tree.map(lambda old, new: old + (1 - config.train.ema) * (new - old), state.ema, params)
    metrics = {name: seen[name] for name in ("loss", "mtp_loss", "balance_loss")} | {
        "learning_rate": learning_rate(config)(state.step), "grad_norm": optax.tree.norm(grads), "tokens": totals.tokens,
        "bytes": jnp.where(mask_ABT, bytes_V[batch["tokens"][..., 1:]], 0).sum(),
        "experts": expert_metrics(seen["experts"], balance, config.model.experts_per_token)}
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, balance=balance, ema=ema), metrics


def expert_metrics(seen: dict, balance: dict, experts_per_token: int) -> dict[str, jax.Array]:
    """Per expert layer (then prediction module): load [L, E], MaxVio, entropy, dropped share and the norm of the bias, each [L]."""
    if not seen:
        return {}
    load_LE = jnp.concatenate([jnp.atleast_2d(layer["load_E"]) for layer in seen.values()])
    dropped_L = jnp.concatenate([jnp.atleast_1d(layer["dropped"]) for layer in seen.values()])
    bias_LE = jnp.concatenate([jnp.atleast_2d(jax.tree.leaves(balance[name])[0]) for name in seen])
    return {"load": load_LE, "max_violation": max_violation(load_LE), "entropy": load_entropy(load_LE),
            "dropped": dropped_L / jnp.maximum(load_LE.sum(-1), 1), "bias_norm": jnp.linalg.norm(bias_LE, axis=-1)}


def eval_step(plan: Plan, bytes_V: jax.Array, params, balance, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Summed nats, tokens and bytes of text over a batch {"tokens", "segments"} [B, T + 1]."""
    _, nll = forward(plan.model, plan.config, params, balance, batch, mtp=False)
    mask_BT = target_mask(batch["segments"], 1, plan.config.data.mask_documents)
    return {"nats": nll[0], "tokens": mask_BT.sum(), "bytes": jnp.where(mask_BT, bytes_V[batch["tokens"][:, 1:]], 0).sum()}


def compile_steps(plan: Plan, bytes_V):
    """The jitted, donated train step and the eval step, with every array where the rules put it on the mesh in use."""
    places = plan.shardings()
    batch, row = sharding(BATCH), sharding("batch sequence")
    whole, bytes_V = sharding(""), jnp.asarray(bytes_V)
    train = jax.jit(partial(train_step, plan, bytes_V), in_shardings=(places, {"tokens": batch, "segments": batch}), out_shardings=(places, whole),
                    donate_argnums=0)
    evaluate = jax.jit(partial(eval_step, plan, bytes_V),
                       in_shardings=(places.params, places.balance, {"tokens": row, "segments": row}), out_shardings=whole)
    return train, evaluate
