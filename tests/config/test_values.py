"""Every value of a config has its field's type and lies in the range that is stated with it."""

import math
import re
from dataclasses import fields, replace

import pytest

from seekjax.config import (
    Config,
    GrpoConfig,
    KernelConfig,
    ModelConfig,
    Objective,
    OptimizerConfig,
    Piece,
)
from seekjax.config.ranges import Range, in_float32
from seekjax.config.validate import check_run
from seekjax.config.values import check_values, field_types
from seekjax.errors import ConfigError
from tests.config.test_fields import EVERYTHING, parts_of


def ranges_of(hint):
    """The ranges within a field's type."""
    for argument in (*getattr(hint, "__metadata__", ()), *getattr(hint, "__args__", ())):
        if isinstance(argument, Range):
            yield argument
        else:
            yield from ranges_of(argument)


@pytest.mark.parametrize(
    "kind", [*dict.fromkeys(map(type, parts_of(EVERYTHING))), Piece], ids=lambda kind: kind.__name__
)
def test_every_number_has_a_range(kind):
    # the mesh is of the package below, with a check of its own
    if kind.__name__ == "MeshConfig":
        return
    hints = field_types(kind)
    for field in fields(kind):
        text = re.sub("'.*?'", "", str(hints[field.name]))
        if "int" in text or "float" in text:
            assert [*ranges_of(hints[field.name])], field.name


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("clip", -1.0, "optimizer.clip is -1.0: it must be at least 0."),
        ("eps", 0, "optimizer.eps is 0: it must be above 0."),
        ("eps", 1e-46, "optimizer.eps is 1e-46, which is 0 in float32: it must be above 0."),
        ("beta1", 1.0, "optimizer.beta1 is 1.0: it must be below 1."),
        ("beta1", 1 - 1e-12, "which is 1 in float32: it must be below 1."),
        ("beta2", math.nan, "optimizer.beta2 is nan: it must be a finite number."),
        ("learning_rate", -math.inf, "is -inf: it must be a finite number."),
        ("learning_rate", 1e300, "is 1e+300: it must be at most 3.40282e+38."),
        ("learning_rate", 10**400, "it must be at most 3.40282e+38."),
        ("learning_rate", "3e-4", "is '3e-4': it must be a number."),
        ("warmup", 2**31, "is 2147483648: it must be at most 2,147,483,647."),
        ("warmup", 2.0, "is 2.0: it must be a whole number."),
        ("warmup", True, "is True: it must be a whole number."),
        ("name", None, "optimizer.name is None: it must be a text."),
        ("schedule", [], "is []: it must be a tuple."),
        ("schedule", (Piece(math.nan, 1.0),), "optimizer.schedule[0].until is nan"),
        ("schedule", (3,), "optimizer.schedule[0] is 3: it must be a Piece."),
    ],
)
def test_a_value_that_does_not_fit_is_one_sentence(field, value, sentence):
    config = Config(optimizer=replace(OptimizerConfig(), **{field: value}))
    with pytest.raises(ConfigError) as raised:
        check_values(config)
    assert sentence in str(raised.value)


def test_every_kind_of_field_is_checked():
    for config, sentence in (
        (Config(kernel=KernelConfig(dtype="float16")), "did you mean 'bfloat16'"),
        (Config(model=ModelConfig(sizes=(("heads",),))), "must be a tuple of 2"),
        (Config(model=ModelConfig(sizes=(("heads", 0),))), r"model.sizes\[0\]\[1\] is 0"),
        (Config(grpo=GrpoConfig(rewards=(("accuracy", math.inf),))), r"rewards\[0\]\[1\] is inf"),
        (Config(grpo=GrpoConfig(objective=Objective(overlong=4096))), "at most 1"),
        (Config(out="runs/a"), "must be a path"),
        (Config(optimizer=OptimizerConfig(warmup=-(10**5000))), "thousands of digits: it must be"),
        (Config(tensorboard=1), "must be True or False"),
        (Config(model=3), "must be a ModelConfig"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check_run(config)
    check_run(Config())


def test_a_number_on_a_device():
    assert in_float32(1 / 3) == pytest.approx(1 / 3, rel=1e-7)
    assert in_float32(1e-40) == 0.0
    assert in_float32(-1e39) == -math.inf
