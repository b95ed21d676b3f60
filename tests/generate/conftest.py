"""A model small enough to check against its uncached self, and the function that makes such
models."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from seekjax.model.abstract import named_variables
from seekjax.model.init import init_params
from seekjax.model.transformer import Transformer, logits
from sharding.place import axes_of, unbox
from tests.fixtures import PLAIN, tiny_model

SMALL = tiny_model(vocab=48, heads=4, value=12, init_std=0.25, context=64)


class Made:
    """A random model, and what it would write if it forgot everything after every token."""

    def __init__(self, **fields):
        self.model = replace(SMALL, **fields)
        transformer = Transformer(self.model, PLAIN)
        named = named_variables(self.model)
        self.axes, shapes = axes_of(named), unbox(named)
        balance = jax.tree.map(
            lambda x: np.linspace(-0.1, 0.1, x.size, dtype=np.float32).reshape(x.shape),
            shapes["balance"],
        )
        self.variables = {
            "params": init_params(self.model, shapes["params"], self.axes["params"], 0),
            "balance": balance,
        }
        self.forward = jax.jit(
            lambda tokens: jax.nn.log_softmax(logits(transformer.apply(self.variables, tokens)))
        )

    def log_probs(self, text) -> np.ndarray:
        """Of every next token, [T, V]; padded to one length, which causal attention cannot see."""
        return np.asarray(self.forward(np.pad(text, (0, 40 - len(text)))[None]))[0, : len(text)]

    def greedy(self, prompt, new: int) -> list[int]:
        text = list(prompt)
        for _ in range(new):
            text.append(int(self.log_probs(text)[-1].argmax()))
        return text[len(prompt) :]


@pytest.fixture(scope="session")
def make():
    return Made


@pytest.fixture(scope="session")
def made():
    return Made()


@pytest.fixture(scope="session")
def prompts():
    random = np.random.default_rng(3)
    return [random.integers(0, SMALL.vocab, length).tolist() for length in (9, 1, 14)]
