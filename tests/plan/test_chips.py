"""The table of chips, and chips of one's own."""

import pytest

from seekjax.errors import UsageError
from seekjax.plan.chips import CHIPS, on_devices, read_chips


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_has_figures_that_agree(name):
    chip = CHIPS[name]
    assert chip.name == name
    assert chip.source
    assert chip.dtypes
    # every byte of memory is read in 5 to 200 ms, but on a CPU
    assert name == "cpu" or 0.005 < chip.memory / chip.bandwidth < 0.2
    assert (chip.inside is None) == (chip.node == 1)


def test_a_chip_of_ones_own(tmp_path):
    file = tmp_path / "chips.toml"
    file.write_text(
        "[Mine]\nmemory = 1e9\nbandwidth = 1e10\nfloat32 = 1e12\nnode = 4\ninside = 1e9"
    )
    chip, count = on_devices("mine:12", read_chips(file))
    assert (chip.name, chip.node, chip.peak("float32"), count) == ("mine", 4, 1e12, 12)
    assert on_devices("h800", read_chips(file))[1] == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[mine", "cannot be read"),
        ("", "must hold a table for each chip"),
        ("mine = 3", "must be a table of figures"),
        ("[mine]\nmemry = 1e9", "'memry': did you mean 'memory'?"),
        ("[mine]\nmemory = -1", "memory of the chip mine is -1: give a number from 1"),
        ("[mine]\nmemory = nan", "memory of the chip mine is nan"),
        ("[mine]\nnode = 2.5", "node of the chip mine is 2.5"),
        ("[mine]\nmemory = 1e9\nfloat32 = 1e9", "lacks bandwidth"),
        ("[mine]\nmemory = 1e9\nbandwidth = 1e9", "lacks a peak"),
    ],
)
def test_a_wrong_file_is_one_sentence(text, sentence, tmp_path):
    file = tmp_path / "chips.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match="chip") as refused:
        read_chips(file)
    assert sentence in str(refused.value)
