"""Several commands as one run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pipeline:
    """Lines by name, in order. In a line, {out} is the folder of them all and {seed} the seed."""

    about: str
    stages: dict[str, str]
