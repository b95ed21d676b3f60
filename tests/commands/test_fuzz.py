"""Command lines drawn from the config's own fields end with a run that could begin, or a sentence.

tests/scripts/fuzz_options.py draws more; its figures are in tests/benchmarks/results/options.md.
"""

import pytest

from tests.scripts.fuzz_options import fuzz


@pytest.mark.slow
def test_no_command_line_is_a_traceback():
    figures = fuzz(draws=300, seed=0, models=1)
    assert figures.faults == []
    assert 30 < figures.accepted < 270
    assert figures.seconds < 60
