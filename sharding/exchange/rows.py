"""Moving rows within a device: sorting them by expert, and permutations whose gradients are gathers
instead of slow scatters.
"""

import jax
import jax.numpy as jnp


def permute(
    x_ND: jax.Array,
    source_M: jax.Array,
    target_N: jax.Array,
    repeat: int = 1,
) -> jax.Array:
    """Return rows source_M // repeat of x; an index past the end gives zeros.

    target_N is the inverse: where row n, or each of its `repeat` copies, went; past the end if
    nowhere. So the gradient is a gather too.
    """
    return _permute(x_ND, source_M, target_N, repeat)


def gather_sum(
    x_MD: jax.Array,
    target_N: jax.Array,
    source_M: jax.Array,
    repeat: int = 1,
) -> jax.Array:
    """Return, for each `repeat` rows of target_N, the sum of the rows of x that they name.

    The transpose of `permute`, summed in float32.
    """
    return _gather_sum(x_MD, target_N, source_M, repeat)


def _permute_plain(
    x_ND: jax.Array,
    source_M: jax.Array,
    target_N: jax.Array,
    repeat: int,
):
    return x_ND.at[source_M // repeat].get(mode="fill", fill_value=0)


def _gather_sum_plain(
    x_MD: jax.Array,
    target_N: jax.Array,
    source_M: jax.Array,
    repeat: int,
):
    target_kN = target_N.reshape(-1, repeat).T

    # One after the other: a sum over an axis would hold all the rows at once.
    total_ND = jnp.zeros((), jnp.float32)
    for target_n in target_kN:
        rows_ND = x_MD.at[target_n].get(mode="fill", fill_value=0)
        total_ND = total_ND + rows_ND.astype(jnp.float32)
    return total_ND.astype(x_MD.dtype)


_permute = jax.custom_vjp(_permute_plain, nondiff_argnums=(3,))
_gather_sum = jax.custom_vjp(_gather_sum_plain, nondiff_argnums=(3,))


def _permute_forward(x_ND, source_M, target_N, repeat):
    return permute(x_ND, source_M, target_N, repeat), (source_M, target_N)


def _permute_backward(repeat, saved, dy_MD):
    source_M, target_N = saved
    return gather_sum(dy_MD, target_N, source_M, repeat), None, None


def _gather_sum_forward(x_MD, target_N, source_M, repeat):
    return gather_sum(x_MD, target_N, source_M, repeat), (source_M, target_N)


def _gather_sum_backward(repeat, saved, dy_ND):
    source_M, target_N = saved
    return permute(dy_ND, source_M, target_N, repeat), None, None


_permute.defvjp(_permute_forward, _permute_backward)
_gather_sum.defvjp(_gather_sum_forward, _gather_sum_backward)


def sort_order(key_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the stable order of the keys, and the position to which each key moves."""
    order_N = jnp.argsort(key_N, stable=True).astype(jnp.int32)
    index_N = jnp.arange(key_N.size, dtype=jnp.int32)
    position_N = jnp.zeros_like(order_N).at[order_N].set(index_N, unique_indices=True)
    return order_N, position_N


def rank_by_gate(group_n: jax.Array, gate_n: jax.Array) -> jax.Array:
    """Return each row's rank by falling gate among the rows of its group."""
    order_n = jnp.lexsort((-jax.lax.stop_gradient(gate_n), group_n))
    sorted_n = group_n[order_n]
    first_n = jnp.searchsorted(sorted_n, sorted_n, side="left")
    rank_n = jnp.arange(group_n.size, dtype=jnp.int32) - first_n.astype(jnp.int32)
    return jnp.zeros_like(rank_n).at[order_n].set(rank_n, unique_indices=True)


def column_of_rows(size_PE: jax.Array, length: int) -> jax.Array:
    """Return the column number of each row, for rows laid out block after block of these sizes."""
    column_PE = jnp.broadcast_to(jnp.arange(size_PE.shape[1]), size_PE.shape)
    return jnp.repeat(column_PE.reshape(-1), size_PE.reshape(-1), total_repeat_length=length)
