"""The running batch: which job sits in which seat, and the decoding calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seekjax.config import ModelConfig
from seekjax.generate.engine.buckets import bucket_of
from seekjax.generate.engine.chunks import page_table
from seekjax.generate.engine.compiled import Programs
from seekjax.generate.engine.pages import PADDING
from seekjax.generate.engine.programs import Harvest, Pools
from seekjax.generate.engine.request import MOST_BIASES
from seekjax.generate.engine.schedule import Job
from seekjax.generate.engine.seats import STOPS, Row, Seats
from seekjax.seeds import SHORT


@dataclass
class Batch:
    """The seats on the device, and who has them.

    Seats are kept from call to call. A job that joins is copied into a free one; all jobs move if
    another bucket of rows or slots fits them better.
    """

    programs: Programs
    model: ModelConfig

    def __post_init__(self):
        self._seats: Seats | None = None
        self._sizes = (0, 0)  # rows and slots
        self._seat_of: dict[Job, int] = {}
        self._pace: dict[tuple[int, int], float] = {}  # seconds of a step, by rows and slots

    def clear(self) -> None:
        """Give up the seats and their memory."""
        self._seats = None
        self._sizes = (0, 0)
        self._seat_of = {}

    def sizes_for(
        self,
        jobs: Sequence[Job],
        new: int,
    ) -> tuple[int, int]:
        """Return the rows and slots of a call that appends up to `new` tokens to each job."""
        longest = 0
        for job in jobs:
            longest = max(longest, min(len(job.tokens) + new, job.limit))
        if self.programs.decoder.draft:
            longest += 1  # where a draft is tried
        buckets = self.programs.buckets
        return bucket_of(buckets.rows, len(jobs)), bucket_of(buckets.slots, longest)

    def seat(
        self,
        pools: Pools,
        jobs: Sequence[Job],
        sizes: tuple[int, int],
    ) -> None:
        """Give each of these jobs a seat, and take it from all others."""
        if sizes != self._sizes:
            self.clear()
            self._sizes = sizes
            self._seats = self.programs("new_seats", *sizes)()

        staying = {job: b for job, b in self._seat_of.items() if job in jobs}
        taken = set(staying.values())
        free = [b for b in range(sizes[0]) if b not in taken]
        for job in jobs:
            if job not in staying:
                staying[job] = free.pop(0)
                self._join(pools, job, staying[job])
        self._seat_of = staying

    def decode(
        self,
        pools: Pools,
        steps: int,
    ) -> tuple[Pools, Harvest, dict[Job, int]]:
        """Run up to `steps` steps; return the pools, what came out, and the row of each job."""
        rows, _ = self._sizes
        alive_B = np.zeros(rows, bool)
        pages = self.programs.written_pages(self.programs.width)
        written_BJ = np.full((rows, pages), PADDING, np.int32)
        allowed_Bx = np.zeros((rows, -(-self.model.vocab // 32)), np.uint32)

        for job, b in self._seat_of.items():
            alive_B[b] = True
            first = (len(job.tokens) - 1) // self.programs.page_size
            own = job.pages[first : first + pages]
            written_BJ[b, : len(own)] = own
            if job.mask is not None:
                allowed_Bx[b] = job.mask

        program = self.programs("decode", *self._sizes)
        pools, self._seats, harvest = program(
            pools,
            self._seats,
            alive_B,
            written_BJ,
            allowed_Bx,
            np.int32(steps),
        )
        return pools, harvest, dict(self._seat_of)

    def steps_within(
        self,
        seconds: float,
        most: int,
    ) -> int:
        """Return how many steps of the batch as it is take about this long."""
        pace = self._pace.get(self._sizes)
        if pace is None:
            return min(2, most)
        return max(1, min(most, int(seconds / pace)))

    def note_pace(
        self,
        steps: int,
        seconds: float,
    ) -> None:
        """Note how long a call took: the shortest time of late, as others may be slowed down."""
        pace = seconds / steps
        before = self._pace.get(self._sizes, pace)
        self._pace[self._sizes] = min(pace, 1.1 * before)

    def _join(
        self,
        pools: Pools,
        job: Job,
        b: int,
    ) -> None:
        """Copy a job into seat b."""
        rows, slots = self._sizes
        table = page_table(job, slots // self.programs.page_size)
        program = self.programs("seat", rows, slots)
        row = row_of(job, slots, self.model.vocab)
        self._seats = program(pools, self._seats, np.int32(b), table, row)


def row_of(
    job: Job,
    slots: int,
    vocab: int,
) -> Row:
    """Return what a job brings to its seat."""
    sampling = job.request.sampling
    seed_high, seed_low = divmod(sampling.seed, SHORT)
    tokens_S = np.zeros(slots, np.int32)
    tokens_S[: len(job.tokens)] = job.tokens

    # unused entries: no token is -1, and ids beyond the vocabulary get no bias
    stop_X = padded(sampling.stop_ids[:STOPS], STOPS, -1, np.int32)
    ids = [id for id, _ in sampling.logit_bias]
    biases = [bias for _, bias in sampling.logit_bias]

    return Row(
        tokens_S=tokens_S,
        length=np.int32(len(job.tokens)),
        limit=np.int32(job.limit),
        prompt=np.int32(job.prompt),
        seed_low=np.uint32(seed_low),
        seed_high=np.uint32(seed_high),
        temperature=np.float32(sampling.temperature),
        top_k=np.int32(sampling.top_k),
        top_p=np.float32(sampling.top_p),
        min_p=np.float32(sampling.min_p),
        repetition=np.float32(sampling.repetition_penalty),
        frequency=np.float32(sampling.frequency_penalty),
        presence=np.float32(sampling.presence_penalty),
        bias_id_X=padded(ids, MOST_BIASES, vocab, np.int32),
        bias_X=padded(biases, MOST_BIASES, 0, np.float32),
        stop_X=stop_X,
        filtered=np.bool_(job.request.filter is not None),
        top=np.bool_(sampling.top_logprobs > 0),
        kept=np.bool_(sampling.sampling_mask),
    )


def padded(
    values: Sequence[Any],
    size: int,
    fill: Any,
    dtype: Any,
) -> np.ndarray:
    """Return an array of this size that begins with these values."""
    array = np.full(size, fill, dtype)
    array[: len(values)] = values
    return array
