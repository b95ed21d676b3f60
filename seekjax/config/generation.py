"""Settings of generation and of evaluation, without those of a run."""

import math
from dataclasses import dataclass

from seekjax.config.post import Template
from seekjax.config.ranges import Count, CountOrZero, NotNegative, Seed, ShareAboveZero
from seekjax.errors import GenerateError, need

MOST = 2**31  # what an int32 on the device cannot hold


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when a row ends."""

    max_new: int = 256  # tokens generated at most
    temperature: float = 1.0  # logits are divided by it; 0 takes the most likely token
    top_k: int = 0  # only this number of the most likely tokens; 0 = all
    top_p: float = 1.0  # only the most likely tokens that hold this share of the probability
    min_p: float = 0.0  # only tokens at least this share as likely as the most likely one
    # row b of a batch draws as row 0 does with seed + b, so its text is the same alone
    seed: int = 0
    stop_ids: tuple[int, ...] = ()  # a row ends with one of these
    # a row ends before one of these, if the caller passes a way to decode ids
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        known = [id for id in self.stop_ids if 0 <= id < MOST]
        finite = math.isfinite(self.temperature)
        rules = (
            ("max_new", 1 <= self.max_new < MOST, f"at least 1 and below {MOST}"),
            ("temperature", self.temperature >= 0 and finite, "a number from 0 (greedy) up"),
            ("top_k", 0 <= self.top_k < MOST, f"0 (all tokens) or more, and below {MOST}"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "from 0 to below 1"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to below 2^63"),
            ("stop_ids", len(known) == len(self.stop_ids), f"ids from 0 to below {MOST}"),
            ("stop", all(self.stop), "strings that are not empty"),
        )
        check_rules(self, rules)


def check_rules(settings: object, rules: tuple[tuple[str, bool, str], ...]) -> None:
    """Raise GenerateError for the first rule (field, whether it holds, expected) that is broken."""
    for name, valid, expected in rules:
        sentence = f"{name} is {getattr(settings, name)}: it must be {expected}."
        need(valid, sentence, GenerateError)


@dataclass(frozen=True)
class EvalConfig:
    """Which problems are evaluated, and how answers are drawn."""

    # of seekjax/tasks, as NAME (all levels) or NAME:LEVEL; several take turns
    task: tuple[str, ...] = ()
    problems: Count = 512  # distinct ones
    samples: Count = 8  # of each problem
    # tokens of a sample; default: as in the run's own rollouts, else 256
    max_new: Count | None = None
    temperature: NotNegative = 1.0  # logits are divided by it; 0 takes the most likely token
    top_k: CountOrZero = 0  # only this number of the most likely tokens; 0 = all
    # only the most likely tokens that hold this share of the probability
    top_p: ShareAboveZero = 1.0
    template: Template = "auto"  # of the chat; auto: the folder's own, else v3
    # settings of the template, as thinking=true for V3.1
    template_settings: tuple[str, ...] = ()
    seed: Seed = 0  # of problems and draws
