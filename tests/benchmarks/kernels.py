"""Milliseconds of each kernel form on this machine's CPU at the shapes of `mini`: forward, and
forward with backward.

    # (all three without a name; about two minutes)
    python -m tests.benchmarks.kernels [experts] [attention] [head]

Forms take turns, so that a busy machine slows them alike; the least of seven turns is shown.
Results: tests/benchmarks/results/kernels.md
"""

import sys
import time

import jax
import jax.numpy as jnp

from seekjax.kernels import attention, cross_entropy, grouped

TURNS = 7


def race(title, forms, inputs):
    """Print the least time of each form over TURNS alternating runs, forward and with the gradients
    of all inputs."""
    runs = {}
    for name, form in forms.items():
        y, _ = jax.eval_shape(lambda: (form(*inputs), 0))
        dy = jnp.ones(y.shape, y.dtype)
        runs[name, "forward"] = jax.jit(form)
        runs[name, "both"] = jax.jit(
            lambda *a, form=form, dy=dy: (lambda y, pull: (y, pull(dy)))(*jax.vjp(form, *a))
        )
    least = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        jax.block_until_ready(run(*inputs))
    for _ in range(TURNS):
        for key, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            least[key] = min(least[key], time.perf_counter() - start)
    for name in forms:
        print(
            f"| {title} | {name} | {1e3 * least[name, 'forward']:.0f} | "
            f"{1e3 * least[name, 'both']:.0f} |",
            flush=True,
        )


def normal(*shape):
    return jax.random.normal(jax.random.key(len(shape) + shape[0]), shape) / 8


def experts():
    """16384 filled rows of width 256 in turn over few and many experts, and in a buffer eight times
    too long."""
    rows, D, F = 16384, 256, 256
    for E, M in ((8, rows), (16, rows), (64, rows), (16, 8 * rows)):
        share_E = jax.random.dirichlet(jax.random.key(0), jnp.full(E, 20.0))
        size_E = jnp.floor(share_E * rows).astype(jnp.int32)
        size_E = size_E.at[0].add(rows - size_E.sum())
        inputs = normal(M, D), normal(M), normal(E, D, F), normal(E, D, F), normal(E, F, D)
        race(
            f"experts E={E} M={M}", {"block": lambda *a: grouped.experts_block(*a, size_E)}, inputs
        )


def heads():
    """Batch 16 of 256 positions, 8 heads; and one long sequence."""
    for B, T in ((16, 256), (1, 4096)):
        inputs = (
            normal(B, T, 8, 32),
            normal(B, T, 8, 16),
            normal(B, T, 8, 32),
            normal(B, T, 16),
            normal(B, T, 8, 32),
        )
        forms = {
            form.__name__: lambda *a, form=form: form(*a, 48**-0.5)
            for form in (attention.attend_plain, attention.attend_dot, attention.attend_block)
        }
        race(f"attention B={B} T={T}", forms, inputs)


def head():
    """4096 rows of width 256 against 8192 words."""
    M, D, V = 4096, 256, 8192
    target_M, weight_M = jax.random.randint(jax.random.key(0), (M,), 0, V), jnp.full(M, 1 / M)
    forms = {
        "nll_plain": lambda *a: (weight_M * cross_entropy.nll_plain(*a, target_M)).sum(),
        "nll_chunked": lambda *a: (weight_M * cross_entropy.nll_chunked(*a, target_M)).sum(),
        "nll_sum": lambda *a: cross_entropy.nll_sum(*a, target_M, weight_M),
    }
    race("head", forms, (normal(M, D), normal(D, V)))


if __name__ == "__main__":
    print(
        f"jax {jax.__version__}\n\n| shape | form | forward ms | forward + backward ms "
        "|\n|---|---|---|---|"
    )
    for name, run in {"experts": experts, "attention": heads, "head": head}.items():
        if name in sys.argv[1:] or len(sys.argv) == 1:
            run()
