"""Draw docs/training.png: what the default run learns next to `xz -6`, and its experts' load.

    python train.py && python -m tests.scripts.training_picture runs/tiny

The curve is that of the text each step trains on; the star is the finished model on the first
200,000 held-out bytes, the text that xz compresses too.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from configs.tiny import config
from seekjax import open_model
from seekjax.data import held_out_text, load_corpus, xz_bits_per_byte
from seekjax.eval.bits import measure, pack_rows
from seekjax.model.transformer import Transformer
from seekjax.placement import use_mesh
from seekjax.train.plots import column, legend_beside, save, select, step_axis
from seekjax.train.pretrain import TEXT_BYTES
from seekjax.train.record import read
from sharding.mesh import MeshConfig

OUT = Path(__file__).parents[2] / "docs" / "training.png"


def closing_bits(folder: Path, text: str) -> float:
    """Bits per byte of the finished model on a text."""
    opened = open_model(folder)
    tokenizer = opened.tokenizer
    ids = np.array(tokenizer.encode(text), np.int32)
    rows = pack_rows([ids], tokenizer.eos, config.data.sequence)
    model = Transformer(opened.model, opened.kernel)
    with use_mesh(MeshConfig(data=1)):
        *_, totals = measure(model, opened.variables, rows, tokenizer.bytes_V, 16)
    return totals.bits_per_byte


def draw(folder: Path) -> None:
    """Draw the picture of a run of the default config."""
    train = select(read(folder), "train", "bits_per_byte", "load")
    text = held_out_text(load_corpus(config.data), "stdlib", TEXT_BYTES)
    bits, xz = closing_bits(folder, text), xz_bits_per_byte(text)
    step = column(train, "step")

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    curve, load = figure.subplots(2, height_ratios=(3, 2))
    curve.plot(step, column(train, "bits_per_byte"), label="text of each step")
    curve.plot(step[-1], bits, "*", markersize=14, label=f"held-out text: {bits:.2f}")
    curve.axhline(xz, color="black", linestyle="--", label=f"xz -6 on that text: {xz:.2f}")
    curve.set(ylabel="bits per byte", ylim=(1, None))
    curve.grid(alpha=0.3)
    step_axis(curve)
    legend_beside(figure, [curve])

    # a row for each expert of each layer, 1 is the balanced share
    load_SLE = np.array(column(train, "load"))
    share_SLE = load_SLE / load_SLE.mean(-1, keepdims=True)
    _, layers, experts = share_SLE.shape
    image = load.imshow(
        share_SLE.reshape(len(step), -1).T,
        aspect="auto",
        cmap="RdBu_r",
        vmin=0,
        vmax=2,
        interpolation="nearest",
        extent=(step[0], step[-1], layers * experts, 0),
    )
    load.set(ylabel="experts of the layers", yticks=experts * np.arange(layers + 1))
    step_axis(load)
    figure.colorbar(image, ax=load, label="load / mean load")
    save(figure, OUT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    draw(parser.parse_args().run)
