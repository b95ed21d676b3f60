"""Settings of what follows pre-training: fine-tuning, preferences, distillation, reinforcement.

A setting that several kinds share is declared once, in a class that they inherit.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seekjax.config.model import Name
from seekjax.config.ranges import (
    Count,
    CountOrZero,
    Finite,
    NotNegative,
    Positive,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    SizeOrZero,
)

Template = Literal["auto", "v2", "v3", "r1"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters instead of the weights themselves (2106.09685).

    A matrix becomes w + alpha / rank a b, with b = 0 at first.
    """

    # [r] inner width of an adapter; 0 = off, all weights are trained
    rank: SizeOrZero = 0
    # scale of the product, over rank
    alpha: Positive = 16.0
    # also the matrices of routed experts; embedding, head, router and norms never
    experts: bool = False


@dataclass(frozen=True)
class ChatConfig:
    """How conversations become token ids."""

    # chat template; auto: the checkpoint's own, else v3
    template: Template = "auto"
    # settings of the template, as thinking=true for V3.1; they are saved with it
    template_settings: tuple[str, ...] = ()
    # leave out samples longer than data.sequence and report how many, instead of refusing them
    drop_long: bool = False


@dataclass(frozen=True)
class SamplesConfig(ChatConfig):
    """Conversations and solved problems to learn from."""

    # .jsonl files of {"messages": [{"role", "content"}, ...]}, or of ShareGPT's or Alpaca's rows;
    # an answer may hold <think>...</think>, or have "reasoning_content", "weight" and "tool_calls",
    # whose outputs follow with the role tool
    chats: tuple[str, ...] = ()
    # solved problems of tasks: addition, countdown, arithmetic, equation, knights, program,
    # gym:FAMILY, jsonl:FILE of questions and answers, or module:name; :LEVEL after it for one level
    tasks: tuple[Name, ...] = ()
    # share of samples drawn from each of chats, then of tasks; empty = equal shares
    weights: tuple[Positive, ...] = ()
    # language of the tasks' thoughts; mixed: one or the other, problem by problem
    language: Literal["en", "zh", "mixed"] = "en"


@dataclass(frozen=True)
class SftConfig(SamplesConfig):
    """Supervised fine-tuning on chats and solved tasks (R1: 2501.12948, section 2.3).

    Only the tokens of the assistant's turns are trained on.
    """

    # share of task problems answered by random attempts instead of solutions, to build a base
    # model for R1-Zero
    attempts: Share = 0.0
    # train only the fewest experts of each layer that have this share of the relevance to the
    # samples (ESFT: 2407.01906); 0 = off
    expert_share: Share = 0.0
    # relevance of an expert: how often it is chosen (token), or the sum of its gates (gate)
    expert_score: Literal["token", "gate"] = "token"


@dataclass(frozen=True)
class DpoConfig(ChatConfig):
    """Direct preference optimisation (2305.18290). train.batch counts texts, two of each pair."""

    # .jsonl files of {"prompt": text or "messages": [...], "chosen": text, "rejected": text}, with
    # "system" or without
    pairs: tuple[str, ...] = ()
    # strength of the KL penalty: larger keeps the policy closer to the reference, the initial
    # weights
    beta: Positive = 0.1


@dataclass(frozen=True)
class SamplingConfig:
    """How answers to problems are drawn, in rollouts and in evaluations."""

    # [G] samples of each problem
    group: Count = 8
    # tokens that a sample may have
    max_new: Count = 64
    # logits are divided by it
    temperature: NotNegative = 1.0
    # draw from this many of the most likely tokens; 0 = all
    top_k: CountOrZero = 0
    # draw from the most likely tokens that hold this share of the probability
    top_p: ShareAboveZero = 1.0
    # held-out problems of an evaluation
    eval_problems: Count = 512


@dataclass(frozen=True)
class DistillConfig(SamplesConfig):
    """Learning a teacher's probabilities of every token.

    The texts are given (1503.02531), or the student's own (GKD: 2306.13649) with on_policy.
    """

    # a run or a published folder with the same tokenizer; its width, depth and experts may differ
    teacher: Path | None = None
    # forward: KL(teacher || student), reverse: KL(student || teacher); auto: reverse if on_policy
    divergence: Literal["auto", "forward", "reverse"] = "auto"
    # [T] both models' logits are divided by it, and the divergence is multiplied by its square
    temperature: Positive = 1.0
    # compare the teacher's most likely tokens one by one and all others as one; 0 = the whole
    # vocabulary
    top_k: CountOrZero = 0
    # share of the loss that is cross entropy on the tokens of the samples; the rest is divergence
    cross_entropy: ShareBelowOne = 0.0
    # folder for the teacher's log-probabilities, with top_k: written once, and read by later runs
    # instead of the teacher
    save_logits: Path | None = None
    # the student answers problems of the tasks and learns the teacher's probabilities of its
    # answers
    on_policy: bool = False
    # of the student's answers with on_policy; a step learns from train.batch answers
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(group=4))


@dataclass(frozen=True)
class Objective:
    """Every choice between the published variants of GRPO; the defaults are DeepSeek-V3.2's.

    seekjax/config/recipes.py has the named ones with their papers' formulas.
    """

    # standardised: (r - mean) / std within a group; centred: r - mean; or module:name
    advantage: Name = "centred"
    # token: pi / pi_old of each token; sequence: GSPO's exp(mean_t log pi / pi_old); or module:name
    ratio: Name = "token"
    # clipped: min(r A, clip(r) A); cispo: stop_gradient(clip(r)) A log pi; or module:name
    surrogate: Name = "clipped"
    # ratios below 1 - clip_low are cut; 1 or more = no lower bound
    clip_low: NotNegative = 0.2
    # ratios above 1 + clip_high are cut
    clip_high: NotNegative = 0.2
    # [beta] weight of the divergence from the reference, in the loss; 0 = no reference needed
    kl: NotNegative = 0.001
    # estimator of that divergence: k1 has no gradient on average, k3 that of the other divergence
    kl_form: Literal["k1", "k2", "k3", "unbiased"] = "unbiased"
    # sequence: over a sequence's tokens, then sequences; token: over all tokens; constant: over a
    # fixed length; or module:name
    average: Name = "sequence"
    # [delta] drop samples with negative advantage whose mean log(sampler / trainer) exceeds this
    # (V3.2); 0 = off
    mask_ratio: NotNegative = 0.5
    # cap of the importance weight pi_old / pi_sampler; 0 = no correction
    truncate: NotNegative = 0.0
    # replace groups whose samples all earn the same by others (DAPO's dynamic sampling)
    resample: bool = False
    # share of the longest completion over which a length penalty grows to 1 (DAPO); 0 = off
    overlong: Share = 0.0
    # the trainer replays the sampler's expert choices
    keep_routing: bool = True
    # the trainer renormalises over the tokens that top_k and top_p let through
    keep_mask: bool = True


@dataclass(frozen=True)
class GrpoConfig(SamplingConfig):
    """Reinforcement on verifiable answers (GRPO: 2402.03300, R1: 2501.12948, V3.2: 2512.02556).

    train.batch counts samples per optimizer step: a rollout of prompts x group samples makes
    prompts x group / batch steps, `epochs` times over. data.sequence holds a prompt and max_new
    tokens.
    """

    # tasks to solve: addition, countdown, arithmetic, equation, knights, program, gym:FAMILY,
    # jsonl:FILE of questions and answers, or module:name; :LEVEL after it for one level
    tasks: tuple[Name, ...] = ("countdown",)
    # rewards, each with its weight: accuracy, format, language, length, or module:name
    rewards: tuple[tuple[Name, Finite], ...] = (("accuracy", 1.0), ("format", 0.1))
    # language of the thoughts that the reward "language" pays for
    language: Literal["en", "zh"] = "en"
    # chat template; auto: the checkpoint's own, else v3
    template: Template = "auto"
    # settings of the template, as thinking=true for V3.1; they are saved with it
    template_settings: tuple[str, ...] = ()
    # problems per rollout
    prompts: Count = 16
    # [mu] times that a rollout is learnt from
    epochs: Count = 1
    # objective of a paper: grpo, r1, v3_2, dr_grpo, dapo, gspo, cispo, or module:name
    recipe: Name = "v3_2"
    # the recipe's settings with what differs from them; None = just the recipe's
    objective: Objective | None = None
    # rollouts after which the policy becomes the reference (R1: 400); 0 = never
    reference_every: CountOrZero = 0
    # rollouts that may be drawn to replace groups without signal
    rounds: Count = 4
    # let the balance bias move, as in pre-training
    move_bias: bool = False
    # sample before the first step, and stop with a diagnosis if nothing can be learnt
    preflight: bool = True
