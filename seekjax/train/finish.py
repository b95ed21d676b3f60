"""The end of a run: what the model has learnt, said and drawn."""

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config
from seekjax.data import exact_batches, held_out_text, xz_bits_per_byte
from seekjax.generate.sampling import Sampling
from seekjax.generate.stream import Generator
from sharding.mesh import make_mesh
from sharding.place import put_batch
from sharding.rules import use

from .loop import Fitted
from .pictures import draw
from .step import compile_steps

TEXT_BYTES = 200_000  # of held-out text in the closing figure
PROMPTS = {"stories": "", "arithmetic": ""}  # generated sources start their own documents; others are given a line of Python


def finish(fitted: Fitted) -> list[str]:
    """The closing lines of a run: bits per byte beside xz, a sample, and where everything is. Draws the pictures."""
    lines = [*compare_with_xz(fitted), *talk(fitted)]
    if jax.process_index() == 0:
        pictures = draw(fitted.folder)
        lines.append(f"pictures: {', '.join(str(path) for path in pictures)}")
    return [*lines, f"checkpoint: {fitted.folder / 'checkpoints' / str(int(fitted.state.step))}"]


def compare_with_xz(fitted: Fitted) -> list[str]:
    """Bits per byte on the first held-out bytes of each source, by the model and by `xz -6` on the same bytes."""
    config, lines = fitted.config, []
    params = fitted.state.params if fitted.state.ema is None else fitted.state.ema
    with use(make_mesh(config.mesh)):
        _, evaluate = compile_steps(fitted.plan, fitted.tokenizer.bytes_V)
        for source in fitted.corpus.sources:
            if not len(source.held_out):
                continue
            text = held_out_text(fitted.corpus, source.name, TEXT_BYTES)
            batches = exact_batches(text, fitted.tokenizer, config.data.sequence, config.train.micro_batch or config.train.batch)
            rows = len(batches[0]["tokens"]) // jax.process_count()
            mine = slice(rows * jax.process_index(), rows * (jax.process_index() + 1))
            seen = [evaluate(params, fitted.state.balance, put_batch({name: x[mine] for name, x in batch.items()}, "batch sequence")) for batch in batches]
            bits = sum(float(one["nats"]) for one in seen) / np.log(2)
            lines.append(f"held-out {source.name}, {len(text.encode()):,} bytes: {bits / len(text.encode()):.3f} bits/byte; "
                         f"xz -6 on the same bytes: {xz_bits_per_byte(text):.3f}")
    return lines


def talk(fitted: Fitted, new: int = 96) -> list[str]:
    """A sample of what the model writes."""
    prompt = prompt_for(fitted.config)
    params = fitted.state.params if fitted.state.ema is None else fitted.state.ema
    variables = jax.tree.map(jnp.asarray, jax.device_get({"params": params, "balance": fitted.state.balance}))
    generator = Generator(fitted.config.model, variables, fitted.config.kernel, draft=False)
    [row] = generator([[fitted.tokenizer.eos, *fitted.tokenizer.encode(prompt)]], Sampling(max_new=new, temperature=0.7, seed=fitted.config.train.seed))
    return ["a sample:", *("    " + line for line in (prompt + fitted.tokenizer.decode(row.ids)).splitlines())]


def prompt_for(config: Config) -> str:
    """How a document of the run's first source may begin."""
    return PROMPTS.get(config.data.sources[0], "def ")
