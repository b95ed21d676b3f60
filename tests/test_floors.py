"""The layers of the design: a module imports only what stands below it, files stay short, and mesh
axes are named in sharding/ alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"sharding"},
    {"seekjax.config", "seekjax"},
    {
        "seekjax.model",
        "seekjax.kernels",
        "seekjax.data",
        "seekjax.quant",
        "seekjax.config.validate",
    },
    {"seekjax.train", "seekjax.generate", "seekjax.hf", "seekjax.plan"},
    {"seekjax.post", "seekjax.eval", "seekjax.serve"},
    {"configs", "seekjax.commands.cli", "seekjax.commands.workflow", "train"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(
    [
        *ROOT.glob("seekjax/**/*.py"),
        *ROOT.glob("sharding/**/*.py"),
        *ROOT.glob("configs/*.py"),
        ROOT / "train.py",
    ]
)
SOURCES = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("seekjax", "sharding")]
named = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def layer(module):
    """ "seekjax.model.block" -> "seekjax.model"; None for other people's modules."""
    parts = module.split(".")
    return (
        None
        if parts[0] not in ("seekjax", "sharding", "configs", "train")
        else ".".join(parts[:2])
        if parts[0] == "seekjax"
        else parts[0]
    )


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Absolute names of the modules a file imports, anywhere in it."""
    package = (
        module_of(path).split(".")
        if path.name == "__init__.py"
        else module_of(path).split(".")[:-1]
    )
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
                if node.level
                else node.module
            )
            yield from (
                (f"{base}.{alias.name}" for alias in node.names) if base == "seekjax" else (base,)
            )


@named
def test_imports_point_down(path):
    own = layer(module_of(path))
    assert own in LEVEL, f"tests/test_floors.py does not know the layer of {own}"
    for name in filter(layer, imports(path)):
        assert LEVEL[layer(name)] <= LEVEL[own], f"{own} is below {layer(name)}"


@source
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 260


@source
def test_mesh_axes_are_named_in_sharding_alone(path):
    if path.parts[len(ROOT.parts)] == "seekjax":
        words = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant)
        }
        assert not words & {"fsdp", "tensor"}
        assert "PartitionSpec" not in path.read_text()
