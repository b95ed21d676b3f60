"""Several commands as one run: a `Workflow` of steps, in order.

A file of configs/ or of your own defines `workflow = Workflow(...)`; `python train.py FILE` runs
it (seekjax/commands/workflow.py). Each step is one command line that also works by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from seekjax.errors import need


@dataclass(frozen=True)
class Output:
    """What an earlier step makes, as the value of an option."""

    step: str


Value: TypeAlias = "str | int | float | bool | Output | Sequence[Value]"
# Options by the path of their field, such as {"train.steps": 300, "sft.tasks": ["countdown:1"]}.
Options: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True)
class Train:
    """A training: `python train.py CONFIG`, in the folder of the step's name."""

    config: str
    name: str
    # the step whose weights it starts from; "" = new weights
    init: str = ""
    # what differs from the config
    options: Options = field(default_factory=dict)

    def product(self, out: Path) -> Path:
        """Return the run folder."""
        return out / self.name

    def inputs(self) -> list[str]:
        """Return the steps whose products this step reads."""
        named = [value.step for value in self.options.values() if isinstance(value, Output)]
        listed = [
            item.step
            for value in self.options.values()
            if isinstance(value, Sequence)
            for item in value
            if isinstance(item, Output)
        ]
        return [*([self.init] if self.init else []), *named, *listed]

    def words(self, products: Mapping[str, Path], seed: int) -> list[str]:
        """Return the command line, from the products of all steps."""
        words = ["train.py", self.config]
        if self.init:
            words += ["--init", str(products[self.init])]
        words += ["--out", str(products[self.name]), "--train.seed", str(seed)]
        return words + option_words(self.options, products)


@dataclass(frozen=True)
class Sample:
    """Answers to training problems: `seekjax sample`, into a .jsonl file of right ones."""

    name: str
    # the step whose model answers
    model: str
    # as NAME or NAME:LEVEL
    tasks: Sequence[str]
    problems: int
    samples: int
    # tokens of an answer
    max_new: int

    def product(self, out: Path) -> Path:
        """Return the file of chats."""
        return out / f"{self.name}.jsonl"

    def inputs(self) -> list[str]:
        """Return the steps whose products this step reads."""
        return [self.model]

    def words(self, products: Mapping[str, Path], seed: int) -> list[str]:
        """Return the command line, from the products of all steps."""
        options: Options = {
            "task": self.tasks,
            "problems": self.problems,
            "samples": self.samples,
            "max_new": self.max_new,
            "seed": seed,
            "out": Output(self.name),
        }
        return ["seekjax", "sample", str(products[self.model]), *option_words(options, products)]


@dataclass(frozen=True)
class Evaluate:
    """Pass@1 and cons@k on held-out problems: `seekjax eval`, into a .json file of figures."""

    # the step whose model is measured
    model: str
    # as NAME or NAME:LEVEL
    tasks: Sequence[str]
    samples: int
    # tokens of an answer
    max_new: int
    # 0 = the command's own number
    problems: int = 0

    @property
    def name(self) -> str:
        """Return the name of the step, MODEL-eval."""
        return f"{self.model}-eval"

    def product(self, out: Path) -> Path:
        """Return the file of figures."""
        return out / f"{self.model}.json"

    def inputs(self) -> list[str]:
        """Return the steps whose products this step reads."""
        return [self.model]

    def words(self, products: Mapping[str, Path], seed: int) -> list[str]:
        """Return the command line, from the products of all steps."""
        del seed  # all models are measured with the same draws
        options: dict[str, Value] = {"task": self.tasks, "samples": self.samples}
        if self.problems:
            options["problems"] = self.problems
        options |= {"max_new": self.max_new, "report": Output(self.name)}
        return ["seekjax", "eval", str(products[self.model]), *option_words(options, products)]


Step: TypeAlias = Train | Sample | Evaluate


@dataclass(frozen=True)
class Workflow:
    """Steps in order. Raises ConfigError if a step reads what no step before it makes."""

    about: str | None
    steps: Sequence[Step]

    def __post_init__(self) -> None:
        """Check the names of the steps."""
        earlier: set[str] = set()
        for step in self.steps:
            need(step.name not in earlier, f"two steps of the workflow are called {step.name}.")
            for name in step.inputs():
                need(
                    name in earlier,
                    f"step {step.name} of the workflow reads what step {name} makes, but no step "
                    "of this name comes before it.",
                )
            earlier.add(step.name)

    def lines(self, out: Path, seed: int) -> dict[str, list[str]]:
        """Return the words of each step's command line, by the name of the step.

        The first word is train.py or seekjax. `out` is the folder of all steps.
        """
        products = self.products(out)
        return {step.name: step.words(products, seed) for step in self.steps}

    def products(self, out: Path) -> dict[str, Path]:
        """Return the folder or file that each step makes."""
        return {step.name: step.product(out) for step in self.steps}


def option_words(options: Options, products: Mapping[str, Path]) -> list[str]:
    """Return options as words: --train.steps 300, --train.no-x for False."""
    words = []
    for path, value in options.items():
        option = path.replace("_", "-")
        if value is False:
            part, dot, name = option.rpartition(".")
            option = f"{part}{dot}no-{name}"
        words.append(f"--{option}")
        if not isinstance(value, bool):
            words += _value_words(value, products)
    return words


def _value_words(value: Value, products: Mapping[str, Path]) -> Iterator[str]:
    """Yield the words of one value; sequences may be nested."""
    if isinstance(value, Output):
        yield str(products[value.step])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _value_words(item, products)
    else:
        yield str(value)
