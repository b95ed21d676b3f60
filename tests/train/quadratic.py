"""A run without a model: a quadratic whose whole step compiles in a second, for what the loop and
the step do with any loss."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import CONSTANT, Config, OptimizerConfig, TrainConfig
from seekjax.train.optimizer import make_optimizer
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import train_step

AXES = {"norm": "embed", "w": "embed hidden"}
CONFIG = Config(
    optimizer=OptimizerConfig(learning_rate=0.05, warmup=1, schedule=CONSTANT),
    train=TrainConfig(
        steps=20,
        batch=8,
        ema=0.9,
        spike=20.0,
        log_every=1,
        eval_every=1000,
        save_every=5,
        skip_limit=3,
    ),
)


class Quadratic:
    """The criterion: the mean of (x w + x norm - 2 x)^2 over a batch {"tokens"} [A, B, 8]."""

    def totals(self, batch):
        return None

    def loss(self, params, state, piece, totals):
        x_BD = piece["tokens"]
        y_BD = x_BD @ params["w"] + x_BD * params["norm"] - 2 * x_BD
        loss = (y_BD**2).mean()
        load_E = (x_BD > 0).sum(0).astype(jnp.float32)
        return loss, {"loss": loss, "experts": {"layers": {"load_E": load_E, "dropped": loss * 0}}}

    def metrics(self, batch, totals):
        return {}


class Spec(RunSpec):
    """A RunSpec without a model."""

    def __init__(self, config):
        self.config = config
        self.frozen = ()
        self.axes = {"params": AXES, "balance": {"layers": {"bias": "-"}}}
        self.abstract_variables = {"balance": {"layers": {"bias": jnp.zeros(8)}}}
        self.optimizer = make_optimizer(config, AXES)
        self.shape = jax.eval_shape(self.first)

    def first(self):
        return self.begin({"norm": jnp.ones(8), "w": jnp.eye(8) * 0.5})

    def start(self, variables=None):
        return jax.device_put(self.first(), self.shardings())


def quadratic(config=CONFIG):
    """The spec and the compiled step of a quadratic."""
    return Spec(config), compiled(config.optimizer, config.train.spike, config.train.ema)


@cache
def compiled(optimizer, spike, ema):
    """The step, which depends on no other settings."""
    train = replace(CONFIG.train, spike=spike, ema=ema)
    spec = Spec(replace(CONFIG, optimizer=optimizer, train=train))
    return jax.jit(partial(train_step, spec, Quadratic()))


def batch(seed, poison=None):
    x = np.random.default_rng(seed).normal(size=(2, 8, 8)).astype(np.float32)
    if poison is not None:
        x[1, 3, 5] = poison
    return {"tokens": x}


class Batches:
    """A source whose batch number n has the seed n; some are poisoned."""

    def __init__(self, poisoned=()):
        self.poisoned = poisoned
        self.number = 0
        self.read = []

    def batch(self, step, state):
        self.read.append(self.number)
        self.number += 1
        return batch(self.read[-1], np.nan if self.read[-1] in self.poisoned else None)

    def tokens(self, step):
        return 1

    def get_state(self):
        return self.number

    def set_state(self, position):
        self.number = position


def parts(source, step=None, gradient=None, config=CONFIG):
    """The parts of a run; `step` may wrap the compiled one."""
    spec, compiled = quadratic(config)
    report = SimpleNamespace(
        extra_metrics=lambda metrics: {}, progress=lambda record: "", header=list
    )
    return SimpleNamespace(
        spec=spec,
        source=source,
        step=step or compiled,
        evaluate=lambda state: ({"loss": float(jnp.abs(state.params["w"]).sum())}, ""),
        report=report,
        gradient=gradient,
    )


def weights(state: TrainState):
    """The trained weights on the host."""
    return jax.device_get(state.params)
