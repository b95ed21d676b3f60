"""What a model writes at the end of its training."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.train.state import RunSpec, TrainState


def write_sample(
    spec: RunSpec, state: TrainState, prompt: Sequence[int], sampling: Sampling
) -> list[int]:
    """Return the token ids that the evaluated weights write after a prompt.

    The weights are copied to one device, so every process writes the same.
    """
    variables = spec.variables(state.replace(params=state.averaged))
    variables = jax.tree.map(jnp.asarray, jax.device_get(variables))
    generator = Generator(spec.config.model, variables, spec.config.kernel, draft=False)
    [completion] = generator([list(prompt)], sampling)
    return completion.ids


def indent(text: str, prefix: str = "    ") -> list[str]:
    """Return the lines of a text, indented for the screen."""
    return [prefix + line for line in text.rstrip("\n").split("\n")]
