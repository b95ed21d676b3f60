"""`seekjax quantize MODEL --to int8|int4|fp8 --out DIR`: a run folder with smaller weights, for
generation but not for training.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from seekjax.checkpoint.read import read_run
from seekjax.commands.common import parse_options
from seekjax.commands.new_run import copy_tokenizer, data_config, write_run
from seekjax.config import Config
from seekjax.errors import GenerateError, WeightsError, need
from seekjax.model.abstract import named_variables
from seekjax.open import on_mesh, open_model
from seekjax.quant.formats import Kind
from seekjax.quant.tree import quantise_tree, tree_bytes
from seekjax.storage import kind_of, new_folder
from sharding.mesh_config import MeshConfig
from sharding.place import axes_of
from sharding.show import human


@dataclass(frozen=True)
class Quantize:
    """Store the matrices of a model in few bits; embedding, head, norms and router stay as they
    are.
    """

    # a run folder or a published checkpoint
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="model")]
    # int8 per output channel; int4 in groups of up to 128; fp8 (E4M3) in blocks of up to 128 x 128
    to: Kind
    out: Path  # a new run folder
    # import the module:name choices that the folder's config.json names
    trust: bool = False
    mesh: MeshConfig = MeshConfig(data=1)  # the devices that hold the weights meanwhile


def quantize(argv: list[str]) -> None:
    """Run the command. Raises WeightsError, RunError or GenerateError."""
    options = parse_options(Quantize, "quantize", argv)
    source, run = options.folder.expanduser(), options.out.expanduser()
    with on_mesh(options.mesh):
        before, after = write_quantised(source, options.to, run, options.trust)
    print(
        f"{options.out}: weights of {human(after)} instead of {human(before)}, "
        f"{human(before - after)} saved; next: seekjax generate {options.out}"
    )


def write_quantised(source: Path, kind: Kind, run: Path, trust: bool = False) -> tuple[int, int]:
    """Write the run folder; return the bytes of the weights before, in float32, and after.

    Raises WeightsError, RunError or GenerateError.
    """
    with new_folder(run, WeightsError) as folder:
        config, variables = _read(source, run, trust)
        need(
            config.kernel.weights == "float32",
            f"{source} has {config.kernel.weights} weights already: quantise the model that they "
            "are from.",
            GenerateError,
        )

        # Quantising consumes the float32 arrays, so that both never fill the memory together.
        before = tree_bytes(variables)
        axes = axes_of(named_variables(config.model, config.kernel))["params"]
        variables["params"] = quantise_tree(variables["params"], axes, kind, consume=True)

        kernel = replace(config.kernel, weights=kind)
        config = replace(config, kernel=kernel, mesh=MeshConfig(data=1), out=run)
        copy_tokenizer(source, folder, config.model.vocab)
        write_run(folder, config, variables)
    return before, tree_bytes(variables)


def _read(source: Path, run: Path, trust: bool) -> tuple[Config, dict]:
    """The config and the weights of a run or of a published checkpoint."""
    if kind_of(source) == "run":
        return read_run(source, trust=trust)
    opened = open_model(source, trust=trust)
    config = Config(model=opened.model, data=data_config(source, run), kernel=opened.kernel)
    return config, opened.variables
