"""The parts that notebooks share."""

import numpy as np
import pytest

from seekjax.model.routing import update_bias
from seekjax.notebook import Source, check


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (2.0001, 2.0),
        (576, 576),
        ([1, 2], np.array([1, 2])),
        (np.float32([0.5, 1]), [0.5, 1.0]),
        ("sigmoid", "sigmoid"),
        ({3, 4}, {3, 4}),
        (lambda x: x + 1, lambda answer: answer(1) == 2),
    ],
)
def test_right_answers(capsys, answer, expected):
    check(answer, expected, "hint")
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(2.1, 2.0), (577, 576), ([1], [1, 2]), ("a", 3), (1, lambda answer: answer(1)), ("x", 2.0)],
)
def test_wrong_answers_get_the_hint_and_never_raise(capsys, answer, expected):
    check(answer, expected, "Think of the cache.")
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet")
    assert printed.endswith("Think of the cache.\n")


def test_no_answer_yet(capsys):
    check(None, 3)
    assert capsys.readouterr().out == "Not answered yet.\n"


def test_source_names_its_file():
    source = Source.of(update_bias)
    assert source.file == "seekjax/model/routing.py"
    assert source.text.startswith("def update_bias(")
    assert "```python\ndef update_bias(" in source._repr_markdown_()
