"""Every array of a run and where it lives, from its config alone: nothing is allocated, no device is needed."""

import math
from functools import partial

import jax

from seekjax.config import Config
from seekjax.train.state import Plan
from seekjax.validate import validate
from sharding import show
from sharding.mesh import abstract_mesh
from sharding.rules import use


def table(config: Config) -> str:
    """One line per parameter on the config's mesh, then the totals of parameters, moments and balance.

    Where mesh.data is 0 it is what the devices here leave to it, at least 1. Raises ConfigError as a run would.
    """
    mesh_of = partial(abstract_mesh, devices=jax.device_count())
    validate(config, mesh_of)
    with use(mesh := mesh_of(config.mesh)):
        plan = Plan(config)
        state, axes = plan.abstract_state(), plan.state_axes()
        groups = {"parameters": show.rows(state.params, axes.params), "moments": show.rows(state.opt_state, axes.opt_state),
                  "balance bias": show.rows(state.balance, axes.balance)}
        if state.ema is not None:
            groups["moving average"] = show.rows(state.ema, axes.ema)
    count = sum(math.prod(row.shape) for row in groups["parameters"])
    heading = f"{count:,} parameters, prediction modules included, on {show.describe(mesh)}"
    return "\n".join((show.table(groups["parameters"] + groups["balance bias"]), "", heading, "", show.totals(groups)))
