"""`seekjax quantize MODEL --to int8|int4|fp8 --out DIR`: a run folder with smaller weights, for
generation but not for training.
"""

from dataclasses import replace
from pathlib import Path

from seekjax.commands.new_run import copy_tokenizer, data_config, write_run
from seekjax.commands.settings import Quantize, Vocabulary
from seekjax.config import Config, KernelConfig
from seekjax.config.formats import Kind
from seekjax.console import progress
from seekjax.errors import GenerateError, WeightsError, need
from seekjax.hf.load import load
from seekjax.hf.published import open_published
from seekjax.model.abstract import abstract_variables, named_variables
from seekjax.open import on_mesh, open_run
from seekjax.quant.tree import quantise_tree, tree_bytes
from seekjax.storage import kind_of, new_folder
from sharding.mesh_config import MeshConfig
from sharding.place import axes_of
from sharding.show import human


def quantize(options: Quantize) -> None:
    """Run the command. Raises WeightsError, RunError or GenerateError."""
    source, run = options.folder.expanduser(), options.out.expanduser()
    with on_mesh(options.mesh):
        before, after = write_quantised(
            source, options.to, run, options.trust, options.vocabulary, options.base
        )
    print(
        f"{options.out}: weights of {human(after)} instead of {human(before)}, "
        f"{human(before - after)} saved; next: seekjax generate {options.out}"
    )


def write_quantised(
    source: Path,
    kind: Kind,
    run: Path,
    trust: bool = False,
    vocabulary: Vocabulary = "same",
    base: Path | None = None,
) -> tuple[int, int]:
    """Write the run folder; return the bytes of the weights before, in float32, and after.

    A published checkpoint is read and rounded layer by layer, and its embedding and head stay in
    bfloat16 if they are. Raises WeightsError, RunError or GenerateError.
    """
    with new_folder(run, WeightsError) as folder:
        if kind_of(source) == "run":
            config, variables, before = _quantise_run(source, kind, trust, vocabulary, base)
        else:
            config, variables, before = _quantise_published(source, kind, run, vocabulary)

        config = replace(config, mesh=MeshConfig(data=1), out=run)
        copy_tokenizer(source, folder, config.model.vocab)
        write_run(folder, config, variables)
    return before, tree_bytes(variables)


def _quantise_run(
    source: Path, kind: Kind, trust: bool, vocabulary: Vocabulary, base: Path | None
) -> tuple[Config, dict, int]:
    """Return the config and the quantised weights of a run, and their bytes before."""
    _, config, variables = open_run(source, trust=trust, base=base)
    need(
        config.kernel.weights == "float32",
        f"{source} has {config.kernel.weights} weights already: quantise the model that they "
        "are from.",
        GenerateError,
    )
    kept = config.kernel.vocabulary if vocabulary == "same" else vocabulary
    kernel = replace(config.kernel, weights=kind, vocabulary=kept)

    # Quantising consumes the float32 arrays, so that both never fill the memory together.
    before = tree_bytes(variables)
    axes = axes_of(named_variables(config.model))["params"]
    with progress(f"rounding to {kind}"):
        variables["params"] = quantise_tree(variables["params"], axes, kernel, consume=True)
    return replace(config, kernel=kernel), variables, before


def _quantise_published(
    source: Path, kind: Kind, run: Path, vocabulary: Vocabulary
) -> tuple[Config, dict, int]:
    """Return the same for a published checkpoint, whose float weights are never all in memory."""
    kept = "int8"
    if vocabulary == "same":
        kept = open_published(source).vocabulary_dtype()
    kernel = KernelConfig(weights=kind, vocabulary=kept)
    model, variables = load(source, kernel)

    before = tree_bytes(abstract_variables(model, KernelConfig()))
    config = Config(model=model, data=data_config(source, run), kernel=kernel)
    return config, variables, before
