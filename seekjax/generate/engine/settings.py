"""The engine's settings and its counters. No JAX."""

from dataclasses import dataclass, fields

import numpy as np

from seekjax.config.generation import check_rules


@dataclass(frozen=True)
class EngineSettings:
    """How many requests are served at once, and with how much memory."""

    page_size: int = 16  # tokens of a page of the cache
    pages: int = 0  # pages of the pool; 0: enough for max_batch requests, in a part of the memory
    max_batch: int = 16  # requests decoded together
    context: int = 0  # tokens of a prompt with its answer at most; 0: the model's context
    chunk: int = 256  # prompt tokens read between two decoding calls
    slots: int = 256  # positions of the smallest cache that programs are compiled for
    steps: int = 32  # decoding steps of one device call at most
    draft: bool | None = None  # whether the prediction module drafts; None: where it pays
    queue: int = 256  # requests that wait at most
    memory: float = 0.3  # of what is free, for the pages of the cache

    def __post_init__(self):
        powers = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        rules = (
            ("page_size", self.page_size in powers, "a power of 2 up to 256"),
            ("pages", self.pages >= 0, "0 (as many as fit) or more"),
            ("max_batch", self.max_batch >= 1, "at least 1"),
            ("context", self.context >= 0, "0 (the model's) or more"),
            ("chunk", self.chunk >= self.page_size, f"at least page_size {self.page_size}"),
            ("slots", self.slots >= 1, "at least 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("queue", self.queue >= 1, "at least 1"),
            ("memory", 0 < self.memory <= 1, "above 0 and at most 1"),
        )
        check_rules(self, rules)


@dataclass(frozen=True)
class EngineStatistics:
    """Counters since the start, and the state now."""

    queued: int  # requests that wait for pages or a place in the batch
    running: int  # requests whose prompt is read or whose answer is generated
    pages_total: int
    pages_free: int
    pages_evictable: int  # cached, and used by no request
    pages_held: int
    prefix_queries: int  # prompt tokens looked up in the prefix cache
    prefix_hits: int  # and found there
    prompt_tokens: int
    generated_tokens: int
    drafted: int  # drafts that were checked
    accepted: int  # and accepted
    preemptions: int
    load: np.ndarray  # [L, E]: tokens that visited each expert of each expert layer

    def __add__(self, other: "EngineStatistics") -> "EngineStatistics":
        """Return the sums of two engines'."""
        sums = {}
        for field in fields(self):
            sums[field.name] = getattr(self, field.name) + getattr(other, field.name)
        return EngineStatistics(**sums)
