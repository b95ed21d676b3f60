"""Compiled programs that runs of one worker share.

A run compiles its own steps, and most of the suite's time is tracing. Many tests start the same
run again: to resume it, on a copy of its folder, with another name. `share` makes the functions
that compile steps return what they returned for equal settings on an equal mesh.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from seekjax.config import CONSTANT, Config, DataConfig, GrpoConfig
from seekjax.config.run import POST_KINDS
from seekjax.train import state, step
from seekjax.train.lora import Adapted
from seekjax.train.state import RunSpec
from sharding import rules

NAMES = ("compile_train", "compile_text_train", "compile_eval")
KEPT = 6  # programs of a worker; the oldest is dropped


def share() -> None:
    """Share from now on. Must come before the modules that import these functions."""
    state.compile_begin = shared(state.compile_begin)
    for name in NAMES:
        setattr(step, name, shared(getattr(step, name)))

    from seekjax.post.distill import criterion  # only now: they import those functions
    from seekjax.post.rl import updates

    criterion.compile_programs = shared(criterion.compile_programs)
    updates.compile_score = shared(updates.compile_score)


def shared(build: Callable) -> Callable:
    """Return a function that builds once per equal settings, and always if they have no key."""
    built: OrderedDict[Hashable, Any] = OrderedDict()

    def get(spec: RunSpec, *settings: Any) -> Any:
        try:
            key = (rules._current.get(), key_of(spec), *map(key_of, settings))
            hash(key)
        except TypeError:
            return build(spec, *settings)

        if key not in built:
            built[key] = build(spec, *settings)
            if len(built) > KEPT:
                built.popitem(last=False)
        built.move_to_end(key)
        return built[key]

    return get


def in_programs(config: Config) -> Config:
    """Return the config without what no compiled step depends on.

    That is files, when to report, the number of steps if no schedule depends on it, and what a
    criterion holds itself.
    """
    data = DataConfig(sequence=config.data.sequence, mask_documents=config.data.mask_documents)
    now = {"log_every": 1, "eval_every": 1, "eval_batches": 1, "save_every": 1, "keep": 1}
    if is_flat(config):
        now["steps"] = 1
    train = replace(config.train, **now)
    kinds = dict.fromkeys(POST_KINDS)
    return replace(config, out=None, init=None, data=data, train=train, **kinds)


def is_flat(config: Config) -> bool:
    """Whether learning rate, balance rate and MTP weight stay as they are, after the warm-up."""
    train = config.train
    schedules = [config.optimizer.schedule]
    if train.balance_rate:
        schedules.append(train.balance_schedule)
    if config.model.mtp_depth:
        schedules.append(train.mtp_schedule)
    return set(schedules) == {CONSTANT} and not train.batch_start


def key_of(setting: Any) -> Hashable:
    """Return what a program depends on. Raises TypeError if that cannot be compared."""
    if isinstance(setting, RunSpec):
        # Any other class of spec holds more than its config: chosen experts, a test's optimizer.
        if type(setting) not in (RunSpec, Adapted):
            raise TypeError(f"{type(setting).__name__} is not described by its config")
        return type(setting), in_programs(setting.config), setting.frozen
    if isinstance(setting, np.ndarray):
        return setting.tobytes()
    if isinstance(setting, type):
        return setting
    if isinstance(setting, GrpoConfig):  # of which problems answers are drawn, and what they earn
        return replace(setting, tasks=(), rewards=(), recipe="", objective=None)

    if type(setting).__module__.startswith("seekjax.post") and hasattr(setting, "totals"):
        # A criterion: its class and the values that it was made from.
        values = [(name, key_of(x)) for name, x in vars(setting).items()]
        return type(setting), tuple(values)
    return setting
