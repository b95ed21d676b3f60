"""The model that is learnt from in distillation: opened when something is asked of it that has not
been kept."""

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax

from seekjax.config import Config
from seekjax.data import DataError, Tokenizer, read_tokenizer
from seekjax.errors import need
from seekjax.kernels.divergence import top_k_log_probs
from seekjax.model.transformer import Transformer
from seekjax.open import OpenedModel, open_model, weights_fingerprint, with_initial_model
from seekjax.post.distill.saved_logits import Kept
from seekjax.storage import kind_of
from seekjax.train.step import BATCH
from sharding.rules import sharding


class Teacher:
    """What it thinks of batches, on the mesh in use: teacher(batch, name) -> {"index", "log_prob"},
    or {"hidden"} where the whole vocabulary is asked for."""

    def __init__(self, config: Config):
        """Looks at its folder and loads nothing. Raises ConfigError, RunError or WeightsError where
        there is no model."""
        post = config.post
        need(
            post.teacher is not None,
            "distillation needs a teacher: name the folder of a run or of a published "
            "checkpoint with --post.teacher.",
        )
        self.folder, self.config, self.kept = post.teacher.expanduser(), config, None
        self.model = with_initial_model(replace(config, init=self.folder)).model
        self.tokenizer = read_tokenizer(self.folder, self.model.vocab)
        self.elsewhere = (
            "let the student learn from its texts instead (seekjax sample "
            f"{self.folder} ..., then python train.py sft)"
        )
        self.mark = weights_fingerprint(self.folder)

    def check_vocabulary(self, config: Config) -> None:
        """Raise ConfigError where the student's has another size: before its tokenizer is read,
        which might not fit it."""
        change = self.elsewhere if config.init else f"set --model.vocab {self.model.vocab}"
        need(
            self.model.vocab == config.model.vocab,
            f"the teacher {self.folder} has a vocabulary of {self.model.vocab} and the "
            "student one of "
            f"{config.model.vocab}: {change}.",
        )

    def check(self, config: Config, tokenizer: Tokenizer) -> None:
        """Raise ConfigError or DataError where teacher and student cannot be compared token by
        token."""
        if tokenizer.fingerprint() != self.tokenizer.fingerprint():
            raise DataError(
                f"the teacher {self.folder} reads text by another tokenizer than the "
                f"student: {self.elsewhere}."
            )
        need(
            config.data.sequence <= self.model.context,
            f"data.sequence {config.data.sequence} exceeds the {self.model.context} "
            "positions that the teacher "
            f"{self.folder} was made for.",
        )
        top_k = self.config.post.top_k
        need(
            0 <= top_k < self.model.vocab,
            f"post.top_k is {top_k}: it must be at least 0 (the whole vocabulary) and "
            "below the vocabulary's "
            f"{self.model.vocab}.",
        )

    def recognise(self, mark: str) -> None:
        """Raise DataError where a run goes on with other weights than it began with."""
        if mark != self.mark:
            raise DataError(
                f"the run so far learnt from other weights than {self.folder} has now: "
                "restore them, or start again under another --out."
            )

    def keep(self, made_for: dict[str, Any]) -> None:
        """From now on keep what it says in post.save_logits, and read there what is kept. Raises
        DataError where that is another teacher's or of other data."""
        post = self.config.post
        self.kept = Kept(
            post.save_logits.expanduser(),
            made_for | {"teacher": self.mark, "top_k": post.top_k, "temperature": post.temperature},
        )

    def __call__(self, batch: dict[str, jax.Array], name: str) -> dict[str, jax.Array]:
        """Of a batch {"tokens", "segments", "trained"} [A, B, T + 1]; `name` is what it is kept
        under."""
        return self.read(batch) if self.kept is None else self.kept(batch, name, self.read)

    def read(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        post = self.config.post
        return think(
            self.transformer,
            self.opened.variables,
            batch,
            post.top_k,
            post.temperature,
            sharding(BATCH),
        )

    @property
    def head(self) -> jax.Array | None:
        """Its output head, where the whole vocabulary is compared."""
        return None if self.config.post.top_k else self._head

    @cached_property
    def opened(self) -> OpenedModel:
        """A run's weights compute as the run did, published ones as the student does. Whatever the
        run did, no token is dropped."""
        published = kind_of(self.folder) != "run"
        opened = open_model(self.folder, self.config.kernel if published else None)
        return opened._replace(
            kernel=replace(
                self.config.kernel,
                dtype=opened.kernel.dtype,
                weights=opened.kernel.weights,
                capacity=0.0,
                remat="none",
            )
        )

    @property
    def transformer(self) -> Transformer:
        return Transformer(self.opened.model, self.opened.kernel)

    @cached_property
    def _head(self) -> jax.Array:
        return self.opened.variables["params"]["head"].astype(self.opened.kernel.dtype)


@partial(jax.jit, static_argnames=("model", "top_k", "temperature", "place"))
def think(
    model: Transformer,
    variables: dict,
    batch: dict[str, jax.Array],
    top_k: int,
    temperature: float,
    place: Any,
) -> dict[str, jax.Array]:
    """What Teacher gives, micro-batch by micro-batch."""

    def one(piece: dict[str, jax.Array]) -> dict[str, jax.Array]:
        tokens_BT, segment_BT = piece["tokens"][:, :-1], piece["segments"][:, :-1]
        output = model.apply(variables, tokens_BT, segment_BT, segment_BT > 0)
        return (
            top_k_log_probs(output.hidden_BTD, output.head_DV, top_k, temperature)
            if top_k
            else {"hidden": output.hidden_BTD}
        )

    batch = {name: batch[name] for name in ("tokens", "segments")}
    return jax.lax.with_sharding_constraint(jax.lax.map(one, batch), place)
