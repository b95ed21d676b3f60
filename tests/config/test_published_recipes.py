"""The published configs train as their papers say. Papers: DeepSeekMoE 2401.06066 section 5.1, V2
2405.04434 section 3.1.2 and appendix B, V3 2412.19437 section 4.2. Schedules are in
tests/train/test_schedule.py, sizes in tests/model/test_published.py."""

import pytest

from seekjax.commands.arguments import load_config
from seekjax.config import Config

TABLE = """
                             moe_16b  v2_lite  v2       v3
optimizer.learning_rate      4.2e-4   4.2e-4   2.4e-4   2.2e-4
optimizer.warmup             2000     2000     2000     2000
optimizer.beta1              0.9      0.9      0.9      0.9
optimizer.beta2              0.95     0.95     0.95     0.95
optimizer.weight_decay       0.1      0.1      0.1      0.1
optimizer.clip               1        1        1        1
model.init_std               0.006    0.006    0.006    0.006
model.norm_eps               1e-6     1e-6     1e-6     1e-6
data.sequence                4096     4096     4096     4096
data.fim_rate                0        0        0        0.1
train.batch                  4608     4608     9216     15360
train.batch_start            0        0        2304     3072
train.balance_loss           0.001    0.001    0.003    0.0001
train.balance_rate           0        0        0        0.001
model.mtp_depth              0        0        0        1
train.mtp_weight             -        -        -        0.3
train.ema                    0        0        0        0
"""
NAMES, *ROWS = [line.split() for line in TABLE.strip().splitlines()]


def field(config: Config, path: str) -> float:
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_the_recipe(name):
    config = load_config(name)
    stated = {row[0]: row[1 + NAMES.index(name)] for row in ROWS}
    expected = {path: float(text) for path, text in stated.items() if text != "-"}
    assert {path: float(field(config, path)) for path in expected} == expected
    assert config.optimizer.name == "adamw"
    assert not config.data.mask_documents
    assert config.data.packing == "split"
