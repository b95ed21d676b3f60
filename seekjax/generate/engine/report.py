"""From what the device returned to tokens and updates. On the host."""

import math

import numpy as np

from seekjax.generate.engine.programs import Harvest, Scores
from seekjax.generate.engine.request import Token, Update
from seekjax.generate.engine.schedule import Job


def keep_experts(
    pages: list[np.ndarray],
    start: int,
    choice_TLK: np.ndarray,
    page_size: int,
) -> None:
    """Keep the experts of the tokens from position `start` on, in the arrays of their pages."""
    for t, choice_LK in enumerate(choice_TLK):
        page, slot = divmod(start + t, page_size)
        pages[page][slot] = choice_LK


def load_of(choice_TLK: np.ndarray, experts: int) -> np.ndarray:
    """Return how many of these choices fell on each expert, [L, E]."""
    layers = choice_TLK.shape[1]
    numbers = choice_TLK.astype(np.int64) + experts * np.arange(layers)[:, None]
    load = np.bincount(numbers.ravel(), minlength=layers * experts)
    return load.reshape(layers, experts)


def keep_scores(
    job: Job,
    start: int,
    count: int,
    scores: Scores,
) -> None:
    """Keep what a chunk of `count` tokens says of the prompt's tokens after them."""
    top = job.request.sampling.top_logprobs
    for t in range(min(count, job.prompt - 1 - start)):
        likely = top_of(scores.top_id_TX[t], scores.top_log_prob_TX[t], top)
        job.scores[start + t + 1] = (float(scores.log_prob_T[t]), likely)


def keep_tokens(
    job: Job,
    b: int,
    harvest: Harvest,
) -> str:
    """Append what a call drew in row b; return why the answer has ended, "" if it has not.

    The device compares with a few stop ids alone, so an answer may end before its last token here.
    """
    sampling = job.request.sampling
    new = int(harvest.length_B[b]) - len(job.tokens)
    for w in range(1, new + 1):
        id = int(harvest.tokens_BW[b, w])
        top = kept = None
        if sampling.top_logprobs:
            count = sampling.top_logprobs
            top = top_of(harvest.top_id_BWX[b, w], harvest.top_log_prob_BWX[b, w], count)
        if sampling.sampling_mask:
            kept = harvest.kept_BWx[b, w]
        log_prob = float(harvest.log_prob_BW[b, w])
        job.details[len(job.tokens)] = (log_prob, top or (), kept, bool(harvest.drafted_BW[b, w]))
        job.tokens.append(id)
        if id in sampling.stop_ids:
            return "stop"
    return "length" if len(job.tokens) >= job.limit else ""


def top_of(
    ids: np.ndarray,
    log_probs: np.ndarray,
    count: int,
) -> tuple[tuple[int, float], ...]:
    """Return the `count` most likely tokens with their log probabilities."""
    return tuple(zip(ids[:count].tolist(), log_probs[:count].tolist()))


def report(
    job: Job,
    page_size: int,
    finish_reason: str = "",
    error: Exception | None = None,
) -> Update | None:
    """Return what a job has to say since its last update; None if that is nothing."""
    certain = len(job.tokens)
    if job.request.sampling.routed_experts and not finish_reason:
        certain = max(certain - 1, job.prompt)

    tokens = []
    for position in range(job.prompt + job.reported, certain):
        log_prob, top, kept, drafted = job.details.pop(position)
        experts = experts_at(job, position, page_size)
        token = Token(job.tokens[position], log_prob, top, drafted, experts, kept)
        tokens.append(token)
    if not tokens and not finish_reason:
        return None

    job.reported += len(tokens)
    first, job.updated = not job.updated, True
    cached = job.cached if first else 0
    prompt = prompt_tokens(job, page_size) if first else None
    return Update(job.request, tokens, finish_reason, error, cached, prompt)


def prompt_tokens(job: Job, page_size: int) -> list[Token] | None:
    """Return the tokens of the prompt, if the request asks for what is known of them."""
    sampling = job.request.sampling
    if not (sampling.prompt_logprobs or sampling.routed_experts):
        return None

    tokens = []
    for position in range(job.prompt):
        log_prob, top = job.scores.get(position, (math.nan, ()))
        experts = experts_at(job, position, page_size)
        tokens.append(Token(job.tokens[position], log_prob, top, experts=experts))
    return tokens


def experts_at(
    job: Job,
    position: int,
    page_size: int,
) -> np.ndarray | None:
    """Return the experts that a token visited, None if it was not read."""
    if position >= job.read:
        return None
    page, slot = divmod(position, page_size)
    return job.experts[page][slot]
