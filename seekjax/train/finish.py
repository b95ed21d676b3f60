"""The end of a run: what the model has learnt, said and drawn."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config
from seekjax.data import exact_batches, held_out_text, xz_bits_per_byte
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.placement import use_mesh
from seekjax.train.plots import draw
from seekjax.train.state import TrainState
from sharding.place import put_batch

if TYPE_CHECKING:
    from seekjax.train.pretrain import Pretraining

TEXT_BYTES = 200_000  # of held-out text in the closing figure
PROMPTS = {
    "stories": "",
    "arithmetic": "",
}  # generated sources start their own documents; others are given a line of Python


def finish(stage: Pretraining, state: TrainState, folder: Path) -> list[str]:
    """The closing lines of a run: bits per byte beside xz, a sample, and where everything is. Draws
    the pictures."""
    lines = [*compare_with_xz(stage, state), *talk(stage, state)]
    if jax.process_index() == 0:
        lines.append(f"pictures: {', '.join(str(path) for path in draw(folder))}")
    return [
        *lines,
        f"checkpoint: {folder / 'checkpoints' / str(int(state.step))}",
        "next: let it write with "
        + shlex.join(["seekjax", "generate", str(folder), "--prompt", prompt_for(stage.config)]),
    ]


def compare_with_xz(stage: Pretraining, state: TrainState) -> list[str]:
    """Bits per byte on the first held-out bytes of each source, by the model and by `xz -6` on the
    same bytes."""
    config, lines = stage.config, []
    params = state.params if state.ema is None else state.ema
    with use_mesh(config.mesh):
        for source in stage.corpus.sources:
            if not len(source.held_out):
                continue
            text = held_out_text(stage.corpus, source.name, TEXT_BYTES)
            batches = exact_batches(
                text,
                stage.tokenizer,
                config.data.sequence,
                config.train.rows,
            )
            rows = len(batches[0]["tokens"]) // jax.process_count()
            mine = slice(rows * jax.process_index(), rows * (jax.process_index() + 1))
            seen = [
                stage.measure(
                    params,
                    state,
                    put_batch({name: x[mine] for name, x in batch.items()}, "batch sequence"),
                )
                for batch in batches
            ]
            bits = sum(float(one["nats"]) for one in seen) / np.log(2)
            lines.append(
                f"held-out {source.name}, {len(text.encode()):,} bytes: "
                f"{bits / len(text.encode()):.3f} bits/byte; "
                f"xz -6 on the same bytes: {xz_bits_per_byte(text):.3f}"
            )
    return lines


def talk(stage: Pretraining, state: TrainState, new: int = 96) -> list[str]:
    """A sample of what the model writes."""
    prompt = prompt_for(stage.config)
    params = stage.plan.weights(state.params if state.ema is None else state.ema, state.frozen)
    variables = jax.tree.map(
        jnp.asarray, jax.device_get({"params": params, "balance": state.balance})
    )
    generator = Generator(stage.config.model, variables, stage.config.kernel, draft=False)
    [row] = generator(
        [[stage.tokenizer.eos, *stage.tokenizer.encode(prompt)]],
        Sampling(max_new=new, temperature=0.7, seed=stage.config.train.seed),
    )
    return [
        "a sample:",
        *("    " + line for line in (prompt + stage.tokenizer.decode(row.ids)).splitlines()),
    ]


def prompt_for(config: Config) -> str:
    """How a document of the run's first source may begin."""
    return PROMPTS.get(config.data.sources[0], "def ")
