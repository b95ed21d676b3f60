"""The teacher of a distillation: opened when its targets are needed and are not saved yet."""

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax

from seekjax.config import Config, DistillConfig
from seekjax.data import DataError, Tokenizer, read_tokenizer
from seekjax.errors import ConfigError, need
from seekjax.kernels.divergence import top_k_log_probs
from seekjax.model.transformer import Transformer
from seekjax.open import OpenedModel, open_model, weights_fingerprint, with_initial_model
from seekjax.quant.formats import dense
from seekjax.storage import kind_of
from seekjax.train.step import BATCH
from sharding.rules import sharding

Batch = dict[str, jax.Array]


class Teacher:
    """Computes the targets of a batch, on the mesh in use.

    Targets are {"index", "log_prob"} of the top_k most likely tokens, or {"hidden"} if the whole
    vocabulary is compared.
    """

    def __init__(self, config: Config, distill: DistillConfig):
        """Read the folder's settings, but no weights.

        Raises ConfigError, RunError or WeightsError if the folder has no model.
        """
        if distill.teacher is None:
            raise ConfigError(
                "distillation needs a teacher: name the folder of a run or of a published "
                "checkpoint with --distill.teacher."
            )

        self.distill = distill
        self.folder = distill.teacher.expanduser()
        self.student_kernel = config.kernel
        self.trust = config.trust
        self.model = with_initial_model(replace(config, init=self.folder)).model
        self.tokenizer = read_tokenizer(self.folder, self.model.vocab)
        self.fingerprint = weights_fingerprint(self.folder)
        self._advice = (
            "let the student learn from its texts instead (seekjax sample "
            f"{self.folder} ..., then python train.py sft)"
        )

    def check_vocabulary(self, config: Config) -> None:
        """Raise ConfigError if the student's vocabulary has another size.

        Call it before the student's tokenizer is read, which might not fit that size.
        """
        advice = self._advice if config.init else f"set --model.vocab {self.model.vocab}"
        need(
            self.model.vocab == config.model.vocab,
            f"the teacher {self.folder} has a vocabulary of {self.model.vocab} and the student one "
            f"of {config.model.vocab}: {advice}.",
        )

    def check(self, config: Config, tokenizer: Tokenizer) -> None:
        """Raise ConfigError or DataError if the two models cannot be compared token by token."""
        need(
            tokenizer.fingerprint() == self.tokenizer.fingerprint(),
            f"the teacher {self.folder} reads text by another tokenizer than the student: "
            f"{self._advice}.",
            DataError,
        )

        need(
            config.data.sequence <= self.model.context,
            f"data.sequence {config.data.sequence} exceeds the {self.model.context} positions that "
            f"the teacher {self.folder} was made for.",
        )
        need(
            self.distill.top_k < self.model.vocab,
            f"distill.top_k is {self.distill.top_k}: it must be below the vocabulary's "
            f"{self.model.vocab}, or 0 for the whole vocabulary.",
        )

    def check_resumed(self, fingerprint: str) -> None:
        """Raise DataError if a run goes on with other weights than it began with."""
        need(
            fingerprint == self.fingerprint,
            f"the run so far learnt from other weights than {self.folder} has now: restore them, "
            "or start again under another --out.",
            DataError,
        )

    def __call__(self, batch: Batch) -> Batch:
        """Return the targets of {"tokens", "segments", "trained"} [A, B, T + 1]."""
        return compute_targets(
            Transformer(self.opened.model, self.opened.kernel),
            self.opened.variables,
            {name: batch[name] for name in ("tokens", "segments")},
            self.distill.top_k,
            self.distill.temperature,
            sharding(BATCH),
        )

    @property
    def head(self) -> jax.Array | None:
        """The output head, or None if only the most likely tokens are compared."""
        return None if self.distill.top_k else self._head

    @cached_property
    def opened(self) -> OpenedModel:
        """The weights, which are read on first use; no token is dropped.

        The weights of a run compute as the run did, published ones as the student does.
        """
        published = kind_of(self.folder) != "run"
        kernel = self.student_kernel if published else None
        opened = open_model(self.folder, kernel, trust=self.trust)
        kernel = replace(
            self.student_kernel,
            dtype=opened.kernel.dtype,
            weights=opened.kernel.weights,
            vocabulary=opened.kernel.vocabulary,
            capacity=0.0,
            remat="none",
        )
        return opened._replace(kernel=kernel)

    @cached_property
    def _head(self) -> jax.Array:
        dtype = self.opened.kernel.dtype
        return dense(self.opened.variables["params"]["head"], dtype).astype(dtype)


@partial(jax.jit, static_argnames=("model", "top_k", "temperature", "placement"))
def compute_targets(
    model: Transformer,
    variables: dict[str, Any],
    batch: Batch,
    top_k: int,
    temperature: float,
    placement: Any,
) -> Batch:
    """Return the targets of a batch, micro-batch by micro-batch."""

    def targets(piece: Batch) -> Batch:
        tokens_BT, segment_BT = piece["tokens"][:, :-1], piece["segments"][:, :-1]
        output: Any = model.apply(variables, tokens_BT, segment_BT, segment_BT > 0)
        if top_k:
            return top_k_log_probs(output.hidden_BTD, output.head_DV, top_k, temperature)
        return {"hidden": output.hidden_BTD}

    return jax.lax.with_sharding_constraint(jax.lax.map(targets, batch), placement)
