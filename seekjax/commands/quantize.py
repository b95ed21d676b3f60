"""`seekjax quantize MODEL --to int8|int4|fp8 --out DIR`: a run folder with smaller weights, for use
but not for training."""

import json
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.read import read_run
from seekjax.checkpoint.write import Checkpoints
from seekjax.commands.convert import copy_tokenizer
from seekjax.config import Config, DataConfig
from seekjax.errors import GenerateError, WeightsError
from seekjax.model.abstract import named_variables
from seekjax.open import on_mesh, open_model
from seekjax.quant.formats import Kind
from seekjax.quant.tree import quantise_tree, tree_bytes
from seekjax.storage import kind_of, new_folder
from sharding.mesh import MeshConfig
from sharding.place import axes_of
from sharding.show import human


@dataclass(frozen=True)
class Quantize:
    """Matrices of a run or of a published checkpoint in few bits; embedding, head, norms and router
    stay as they are."""

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="model")
    ]  # a run's folder, or that of a published checkpoint
    # int8 per output channel; int4 in groups of up to 128; fp8 (E4M3) in blocks of up to 128 x 128
    to: Kind
    out: Path  # a new run folder
    mesh: MeshConfig = MeshConfig(data=1)  # where the weights live on their way


def quantize(argv: list[str]) -> None:
    """The command; raises errors that cli.run turns into one sentence."""
    asked = tyro.cli(
        Quantize, prog="seekjax quantize", args=argv, config=(tyro.conf.FlagConversionOff,)
    )
    with on_mesh(asked.mesh):
        before, after = quantised(asked.folder.expanduser(), asked.to, asked.out.expanduser())
    print(
        f"{asked.out}: weights of {human(after)} instead of {human(before)}, "
        f"{human(before - after)} saved; next: seekjax generate {asked.out}"
    )


def quantised(source: Path, kind: Kind, run: Path) -> tuple[int, int]:
    """Write the run folder; bytes of the weights before, in float32, and after. Raises
    WeightsError, RunError or GenerateError."""
    with new_folder(run, WeightsError) as folder:
        if kind_of(source) == "run":
            config, variables = read_run(source)
        else:
            opened = open_model(source)
            data = (
                DataConfig(tokenizer=str(run / "tokenizer.json"))
                if opened.tokenizer
                else DataConfig()
            )
            config, variables = (
                Config(model=opened.model, data=data, kernel=opened.kernel),
                opened.variables,
            )
        if config.kernel.weights != "float32":
            raise GenerateError(
                f"{source} has {config.kernel.weights} weights already: quantise the "
                "model that they are from."
            )
        before = tree_bytes(variables)
        axes = axes_of(named_variables(config.model, config.kernel))["params"]
        variables |= {"params": quantise_tree(variables["params"], axes, kind, consume=True)}
        config = replace(
            config, kernel=replace(config.kernel, weights=kind), mesh=MeshConfig(data=1), out=run
        )
        copy_tokenizer(source, folder)
        with closing(Checkpoints(folder, keep=1)) as checkpoints:
            checkpoints.save(0, variables, data=None, config=to_json(config))
            checkpoints.wait()
        (folder / "config.json").write_text(json.dumps(to_json(config), indent=1))
    return before, tree_bytes(variables)
