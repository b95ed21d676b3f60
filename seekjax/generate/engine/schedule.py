"""Who is served next, on the host: admission, prompts in chunks, preemption. No JAX.

A job is waiting, then reading (its prompt, in chunks), then decoding. The last token of a text is
never read in a chunk: the first decoding step reads it and draws the next one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from seekjax.generate.engine.buckets import round_up
from seekjax.generate.engine.pages import PagePool, page_keys
from seekjax.generate.engine.request import Request

AGEING = 4  # every fourth chunk is of the oldest prompt, so that none waits for ever


@dataclass(eq=False)
class Job:
    """A request on its way."""

    request: Request
    tokens: list[int]  # prompt and answer
    prompt: int  # tokens of the prompt
    limit: int  # length at which the answer ends
    number: int = 0  # in the order of submission
    pages: list[int] = field(default_factory=list)  # of the tokens, in order
    read: int = 0  # tokens that are in the cache
    keys: list[bytes] = field(default_factory=list)  # of full pages
    experts: list[np.ndarray] = field(default_factory=list)  # of each page, [page_size, L, K]
    # what the prompt's tokens score, by position: (log_prob, top)
    scores: dict[int, tuple] = field(default_factory=dict)
    cached: int = 0  # prompt tokens that the prefix cache had at first
    reported: int = 0  # tokens of the answer that updates have had
    updated: bool = False  # whether there was an update
    details: dict[int, tuple] = field(default_factory=dict)  # of tokens that are not reported yet
    mask: np.ndarray | None = None  # what the request's filter allows next

    @property
    def unread(self) -> int:
        """Tokens that must be read before decoding."""
        return len(self.tokens) - 1 - self.read

    @property
    def must_score(self) -> bool:
        """True if log probabilities of the prompt are still to be computed."""
        wants = self.request.sampling.prompt_logprobs
        return wants and len(self.scores) < self.prompt - 1


class Scheduler:
    """The jobs by state, and the pages they hold."""

    def __init__(
        self,
        pool: PagePool,
        page_size: int,
        max_batch: int,
        entry: Callable,
    ):
        """entry() is an empty array for the experts of one page."""
        self.pool = pool
        self.page_size = page_size
        self.max_batch = max_batch
        self.waiting: deque[Job] = deque()
        self.reading: list[Job] = []
        self.decoding: list[Job] = []
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.preemptions = 0
        self._entry = entry
        self._submitted = 0
        self._chunks = 0

    @property
    def running(self) -> list[Job]:
        """The jobs that hold pages."""
        return [*self.reading, *self.decoding]

    @property
    def idle(self) -> bool:
        """True if there is nothing to do."""
        return not (self.waiting or self.reading or self.decoding)

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn."""
        self._submitted += 1
        job.number = self._submitted
        self.waiting.append(job)

    def admit(self) -> None:
        """Begin with the jobs that wait, in order, while there are places and pages."""
        while self.waiting and len(self.running) < self.max_batch:
            if not self._begin(self.waiting[0]):
                return
            self.waiting.popleft()

    def next_reader(self) -> Job | None:
        """Return the job whose chunk is read next: that with the shortest rest of its prompt, and
        every fourth time the oldest.
        """
        if not self.reading:
            return None
        self._chunks += 1
        if self._chunks % AGEING == 0:
            return min(self.reading, key=lambda job: job.number)
        return min(self.reading, key=lambda job: (job.unread, job.number))

    def start_decoding(self, job: Job) -> None:
        """Move a job whose prompt has been read to those that decode."""
        self.reading.remove(job)
        self.decoding.append(job)

    def make_room(self, steps: int) -> None:
        """Give every decoding job the pages of this many steps; preempt the youngest while there
        are too few.
        """
        for job in sorted(self.decoding, key=lambda job: job.number):
            while job in self.decoding and not self._extend(job, len(job.tokens) + steps):
                youngest = max(self.running, key=lambda job: job.number)
                self.preempt(youngest)

    def can_extend(self, steps: int) -> bool:
        """Return whether every decoding job can have the pages of this many steps."""
        missing = [self._missing(job, len(job.tokens) + steps) for job in self.decoding]
        return sum(missing) <= self.pool.available

    def preempt(self, job: Job) -> None:
        """Take a job's pages away; its text so far becomes the prompt that it begins with again."""
        self._leave(job)
        self.waiting.appendleft(job)
        self.preemptions += 1

    def finish(self, job: Job) -> None:
        """Forget a job and free its pages."""
        if job in self.waiting:
            self.waiting.remove(job)
        else:
            self._leave(job)

    def note_read(
        self,
        job: Job,
        until: int,
    ) -> None:
        """Say that a job's tokens before `until` are in the cache; full pages become findable."""
        job.read = until
        full = until // self.page_size
        if full <= len(job.keys):
            return
        known = len(job.keys)
        ids = job.tokens[: full * self.page_size]
        job.keys = page_keys(job.request.salt, ids, self.page_size, job.keys)
        for i in range(known, full):
            self.pool.register(job.pages[i], job.keys[i], job.experts[i])

    def _begin(self, job: Job) -> bool:
        """Give a job its pages, from the prefix cache as far as they are there."""
        room = len(self.running)  # a page that each of the others may need next
        ids = job.tokens[:-1]
        keys = []
        if not job.must_score:
            keys = page_keys(job.request.salt, ids, self.page_size)
        shared = self.pool.share(keys)

        needed = self._pages_of(len(job.tokens) + 1) - len(shared)
        fresh = None
        if not room or needed + room <= self.pool.available:
            fresh = self.pool.allocate(needed)
        if fresh is None:
            self.pool.release(shared)
            return False

        job.pages = shared + fresh
        job.keys = keys[: len(shared)]
        job.read = len(shared) * self.page_size
        job.experts = [self.pool.extras[page] for page in shared]
        job.experts += [self._entry() for _ in fresh]
        if not job.updated and not job.cached:
            job.cached = job.read
        self.prefix_queries += len(ids)
        self.prefix_hits += job.read
        self.reading.append(job)
        return True

    def _extend(
        self,
        job: Job,
        length: int,
    ) -> bool:
        """Give a job the pages that it lacks for this length, or return False."""
        fresh = self.pool.allocate(self._missing(job, length))
        if fresh is None:
            return False
        job.pages += fresh
        job.experts += [self._entry() for _ in fresh]
        return True

    def _missing(
        self,
        job: Job,
        length: int,
    ) -> int:
        return max(0, self._pages_of(min(length, job.limit)) - len(job.pages))

    def _pages_of(self, length: int) -> int:
        return round_up(length, self.page_size) // self.page_size

    def _leave(self, job: Job) -> None:
        """Free the pages of a job that runs."""
        jobs = self.reading if job in self.reading else self.decoding
        jobs.remove(job)
        self.pool.release(job.pages)
        job.pages, job.keys, job.experts, job.read = [], [], [], 0
