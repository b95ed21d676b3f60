"""Distillation as a stage of the loop: fine-tuning whose target is all that a teacher thinks of the
next token, not the one that was written.

    # KL(teacher || student) or KL(student || teacher) of softmax(logits / T), w =
    # post.cross_entropy (1503.02531, section 2)
    L = (1 - w) T^2 KL + w CE

each the mean over what the assistant said. post/divergence.py has the two directions and their
top-k form, post/teacher.py the teacher and what it keeps, post/on_policy.py the same loss on the
student's own answers. Distillation from samples, R1's own (2501.12948, section 2.4), is plain
fine-tuning: `seekjax sample TEACHER --task T --out kept.jsonl`, then `python train.py sft
--post.chats kept.jsonl`; there vocabularies may differ.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config, DistillConfig, SftConfig
from seekjax.errors import need
from seekjax.kernels.divergence import divergence
from seekjax.post.distill.teacher import Teacher
from seekjax.post.plots import draw_figures
from seekjax.post.samples.solutions import load_samples
from seekjax.post.tune import sft
from seekjax.post.tune.sft import Answers, FineTuning
from seekjax.train.loss import balance_loss, forward, loads, target_mask
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import BATCH, train_step
from sharding.place import put_batch
from sharding.rules import sharding

SHARED = (
    "chats",
    "tasks",
    "weights",
    "language",
    "template",
    "drop_long",
)  # that distillation reads as fine-tuning does
THOUGHTS = ("index", "log_prob", "hidden")  # of the teacher, within a batch


class Match(Answers):
    """The criterion: train.loss.Criterion on batches {"tokens", "segments", "trained"} with what
    the teacher thinks of them."""

    def __init__(self, plan: RunSpec, post: DistillConfig, bytes_V: Any, head_DV: jax.Array | None):
        super().__init__(plan, bytes_V)
        self.post, self.head_DV = post, head_DV

    def sums(self, params, state: TrainState, piece: dict[str, jax.Array], mtp: bool):
        """Summed KL over the trained tokens of a micro-batch, summed cross entropy of each
        prediction depth, and the model's output."""
        config = self.plan.config
        output, nll = forward(
            self.plan.model,
            config,
            self.plan.weights(params, state.frozen),
            state.balance,
            piece,
            mtp,
        )
        thoughts = {name: piece[name] for name in THOUGHTS if name in piece} | {
            "head": self.head_DV
        }
        kl_BT = divergence(
            output.hidden_BTD, output.head_DV, thoughts, direction(self.post), self.post.temperature
        )
        return (
            jnp.where(target_mask(piece, 1, config.data.mask_documents), kl_BT, 0).sum(),
            nll,
            output,
        )

    def loss(self, params, state: TrainState, piece: dict[str, jax.Array], totals: Any):
        config, share = self.plan.config, self.post.cross_entropy
        kl, nll, output = self.sums(params, state, piece, mtp=True)
        kl, ce = kl / totals.tokens, nll / totals.tokens
        mtp = ce[1:].mean() if config.model.mtp_depth else jnp.zeros(())
        balanced = balance_loss(output) / totals.sequences
        total = (
            (1 - share) * self.post.temperature**2 * kl
            + self.mtp_weight(state.step) * mtp
            + config.train.balance_loss * balanced
        )
        total = total + share * ce[0] if share else total  # no gradient is made for a figure
        return total, {
            "kl": kl,
            "loss": ce[0],
            "mtp_loss": mtp,
            "balance_loss": balanced,
            "experts": loads(output),
        }

    def measured(
        self, params, state: TrainState, batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Sums over a batch [A, B, T + 1]."""

        def one(piece):
            kl, nll, _ = self.sums(params, state, piece, mtp=False)
            return {"kl": kl, "nats": nll[0]}

        return jax.tree.map(lambda x: x.sum(0), jax.lax.map(one, batch)) | {
            "tokens": self.mask(batch).sum(),
            "bytes": super().metrics(batch, self.totals(batch))["bytes"],
        }


class Distillation(FineTuning):
    """The stage of `python train.py distill`; see train.stage.Stage for the methods."""

    def __init__(self, config: Config):
        self.begin(config)
        self.corpus = load_samples(self.config, self.form)

    def begin(self, config: Config) -> None:
        """Look at the teacher, and read samples as fine-tuning does. A student without --init has
        its teacher's tokenizer and template."""
        self.post, home = config.post, config.init or config.post.teacher
        check(config)
        self.teacher = Teacher(config)
        data = replace(
            config.data,
            mask_documents=True,
            packing="fit",
            tokenizer=config.data.tokenizer if config.init else str(self.teacher.folder),
        )
        config = replace(
            config, data=data, sft=SftConfig(**{name: getattr(self.post, name) for name in SHARED})
        )
        sft.check(config)
        self.teacher.check_vocabulary(config)
        self.learn_form(replace(config, init=home))
        self.config = config
        self.teacher.check(config, self.tokenizer)

    def said(self, sources: str) -> list[str]:
        return [*super().said(sources), self.asks()]

    def asks(self) -> str:
        """Who is asked for what."""
        post, teacher = self.post, self.teacher
        compared = (
            f"its {post.top_k} likeliest tokens and the rest"
            if post.top_k
            else "the whole vocabulary"
        )
        return (
            f"teacher: {teacher.folder}, {teacher.model.layers} layers of width "
            f"{teacher.model.embed}; {direction(post)} divergence over {compared}"
            + (f"; what it says is kept in {post.save_logits}" if post.save_logits else "")
        )

    def open(self, folder: Path) -> None:
        super().open(folder)
        self.compile()
        self.step = self.match
        if self.post.save_logits:
            config = self.config
            self.teacher.keep(
                {
                    "tokenizer": self.tokenizer.fingerprint(),
                    "template": self.form.fingerprint(),
                    "data": self.corpus.fingerprint(),
                    "sequence": config.data.sequence,
                    "seed": config.train.seed,
                    "vocab": config.model.vocab,
                }
            )

    def compile(self) -> None:
        """The step and the measurement; both take the teacher's head, which changes nothing where
        only its likeliest tokens are compared."""
        plan, places = self.plan, self.plan.shardings()

        def criterion(head_DV) -> Match:
            return Match(plan, self.post, self.tokenizer.bytes_V, head_DV)

        into, head = (places, sharding(BATCH)), sharding("embed vocab")
        update = jax.jit(
            lambda state, batch, head_DV: train_step(plan, criterion(head_DV), state, batch),
            in_shardings=(*into, head),
            out_shardings=(places, sharding("")),
            donate_argnums=0,
        )
        look = jax.jit(
            lambda params, state, batch, head_DV: criterion(head_DV).measured(params, state, batch),
            in_shardings=(places.params, *into, head),
            out_shardings=sharding(""),
        )
        self.match = lambda state, batch: update(state, batch, self.teacher.head)
        self.measure = lambda params, state, batch: look(params, state, batch, self.teacher.head)

    def batch(self, step: int, state: TrainState) -> dict[str, jax.Array]:
        batch = super().batch(step, state)
        return batch | self.teacher(batch, f"train-{step:06}")

    def position(self) -> Any:
        return {"teacher": self.teacher.mark, "batches": super().position()}

    def seek(self, position: Any) -> None:
        self.teacher.recognise(position["teacher"])
        super().seek(position["batches"])

    def describe(self, record: dict[str, Any]) -> str:
        return f"kl {record['kl']:.4f}  {super().describe(record)}"

    def evaluate(self, state: TrainState) -> tuple[dict[str, float], str]:
        """KL and loss on what the assistant says in held-out samples, of every source apart; from
        the moving average of the weights, where one is kept."""
        record, total, params = {}, {}, state.params if state.ema is None else state.ema
        for number, (name, batches) in enumerate(self.held_out.items()):
            placed = [
                put_batch({part: x[None] for part, x in batch.items()}, BATCH) for batch in batches
            ]
            sums = added(
                [
                    self.measure(
                        params, state, one | self.teacher(one, f"held_out-{number}-{at:06}")
                    )
                    for at, one in enumerate(placed)
                ]
            )
            total = added([total, sums]) if total else sums
            record |= {
                f"kl/{name}": sums["kl"] / sums["tokens"],
                f"loss/{name}": sums["nats"] / sums["tokens"],
            }
        if not record:
            return {}, "nothing: data.held_out is 0, or there is a single conversation"
        record |= {
            "kl": total["kl"] / total["tokens"],
            "loss": total["nats"] / total["tokens"],
            "bits_per_byte": total["nats"] / np.log(2) / max(total["bytes"], 1),
        }
        parts = [f"{name} {record[f'kl/{name}']:.4f}" for name in self.held_out]
        return record, (
            f"kl {record['kl']:.4f}, loss {record['loss']:.3f} on "
            f"{int(total['tokens']):,} tokens of answers"
            + (f" (kl of {', '.join(parts)})" if len(parts) > 1 else "")
        )

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        return [
            *([f"picture: {self.draw_distance(folder)}"] if jax.process_index() == 0 else []),
            *super().finish(state, folder),
        ]

    def draw_distance(self, folder: Path) -> Path:
        """kl.png in a run's folder."""
        return draw_figures(
            folder, "kl.png", "distance of student and teacher", {"kl": "KL (nats per token)"}
        )


def direction(post: DistillConfig) -> str:
    """Which divergence is meant by auto."""
    return (
        ("reverse" if post.on_policy else "forward")
        if post.divergence == "auto"
        else post.divergence
    )


def added(sums: list[dict[str, Any]]) -> dict[str, float]:
    return {name: sum(float(one[name]) for one in sums) for name in sums[0]}


def check(config: Config) -> None:
    """Raise ConfigError for settings that do not fit each other."""
    post = config.post
    need(post.temperature > 0, f"post.temperature is {post.temperature}: it must be above 0.")
    need(
        0 <= post.cross_entropy < 1,
        f"post.cross_entropy is {post.cross_entropy}: it is a share of the loss, from 0 to below 1.",
    )
    need(
        not post.save_logits or post.top_k > 0,
        "post.save_logits would keep whole vocabularies for every token: say how many of "
        "the likeliest with --post.top-k.",
    )
    need(
        not post.save_logits or jax.process_count() == 1,
        "post.save_logits is for one process: save them on one host, or let the teacher "
        "stay in memory.",
    )
