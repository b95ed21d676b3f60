"""Parts that the notebooks share: source code to read, checks of exercises, pictures."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes

from seekjax.errors import SeekjaxError
from seekjax.extras import import_extra

# Colours that a colour-blind reader can tell apart (Okabe and Ito), dark ones first.
BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)


@dataclass(frozen=True)
class Source:
    """The source of a function or class, which a notebook shows as Python with colours."""

    file: str
    text: str

    @classmethod
    def of(cls, function: Callable) -> "Source":
        """Return the source of a function or class, without indentation."""
        function = inspect.unwrap(function)
        file = function.__module__.replace(".", "/") + ".py"
        return cls(file, textwrap.dedent(inspect.getsource(function)).rstrip())

    def __repr__(self) -> str:
        return f"{self.file}\n\n{self.text}"

    def _repr_markdown_(self) -> str:
        return f"`{self.file}`\n\n```python\n{self.text}\n```"


def show_source(*functions: Callable) -> None:
    """Show the source of functions or classes below a notebook's cell, each with its file."""
    ipython = import_extra("IPython.display", "notebooks", "A notebook", SeekjaxError)
    for function in functions:
        ipython.display(Source.of(function))


def check(answer: Any, expected: Any, hint: str = "", tolerance: float = 1e-3) -> None:
    """Print whether the answer of an exercise is right; never raises.

    answer      None says that the exercise is not answered yet
    expected    a number, an array, a text, or a function of the answer that returns whether it is
                right; integers are compared exactly
    hint        a sentence for an answer that is not right
    tolerance   the allowed relative error of numbers
    """
    if answer is None:
        print("Not answered yet.")
        return
    try:
        right = _right(answer, expected, tolerance)
    except Exception as error:  # the answer may be anything
        print(f"Not yet: checking the answer raised {type(error).__name__}: {error}. {hint}")
        return
    print("Right." if right else f"Not yet. {hint}")


def _right(answer: Any, expected: Any, tolerance: float) -> bool:
    """Return whether an answer is the expected one."""
    if callable(expected):
        return bool(expected(answer))
    kind = np.asarray(expected).dtype.kind
    if kind in "biu":
        return np.array_equal(answer, expected)
    if kind == "f":
        same_shape = np.shape(answer) == np.shape(expected)
        return same_shape and np.allclose(answer, expected, rtol=tolerance, atol=0)
    return bool(answer == expected)


def set_look() -> None:
    """Give all pictures of a notebook one look, which GitHub's page is wide enough for."""
    mpl.rc("axes", prop_cycle=cycler(color=COLOURS), grid=True, axisbelow=True)
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("figure", figsize=(8, 4), dpi=110)
    mpl.rc("figure.constrained_layout", use=True)
    mpl.rc("grid", alpha=0.3)
    mpl.rc("lines", linewidth=2)


def legend_beside(axis: Axes, **options: Any) -> None:
    """Put the legend of a picture to the right of it, so that it covers no curve."""
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "frameon": False}
    axis.legend(**(beside | options))
