"""Shapes in names cannot rot: every einsum string spells the suffixes of its operands and of its
target."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("seekjax", "sharding")
    for path in ROOT.glob(f"{folder}/**/*.py")
    if "einsum" in path.read_text()
)
CASTS = {
    "astype",
    "constrain",
    "where",
    "stop_gradient",
}  # calls that keep the shape of their first array


def is_einsum(node):
    """A call whose first argument is an einsum string: einsum itself or a function that wraps
    it."""
    first = node.args[0] if isinstance(node, ast.Call) and node.args else None
    return (
        isinstance(first, ast.Constant)
        and isinstance(first.value, str)
        and bool(re.fullmatch(r"[A-Za-z]+(,[A-Za-z]+)*->[A-Za-z]*", first.value))
    )


def einsums(tree):
    """(call, target or None) of every einsum; the target where the einsum's own value is
    assigned."""
    targets = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            pairs = (
                zip(target.elts, node.value.elts)
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                else [(target, node.value)]
            )
            targets |= {id(call): to for to, value in pairs for call in whole(value)}
    return [(node, targets.get(id(node))) for node in ast.walk(tree) if is_einsum(node)]


def whole(node):
    """The einsums within an expression that have the shape of all of it."""
    if is_einsum(node):
        return [node]
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.MatMult):
        return [*whole(node.left), *whole(node.right)]
    if isinstance(node, ast.Call) and callee(node) in CASTS | {"checkpoint_name"}:
        return whole(node.func.value if callee(node) == "astype" else node.args[0])
    return []


def callee(node):
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def suffix(node):
    """ "BTD" of x_BTD, of x_BTD.astype(...) and of output.x_BTD; None where a name says no
    shape."""
    if isinstance(node, ast.Call) and callee(node) in CASTS:
        return suffix(node.func.value if callee(node) == "astype" else node.args[0])
    name = (
        node.id
        if isinstance(node, ast.Name)
        else node.attr
        if isinstance(node, ast.Attribute)
        else ""
    )
    last = name.rpartition("_")[2]
    return (
        last
        if "_" in name and last.isalnum() and (last[0].isupper() or last[-1].isupper())
        else None
    )


def check(path):
    """How many operands and targets of the file spell the letters of their einsum string; raises
    AssertionError at the first that does not."""
    checked = 0
    for call, target in einsums(ast.parse(path.read_text())):
        equation, *operands = call.args
        inputs, output = equation.value.split("->")
        for letters, operand in zip(inputs.split(","), operands, strict=True):
            checked += spelled(path, call, letters, suffix(operand))
        checked += spelled(path, call, output, suffix(target) if target is not None else None)
    return checked


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_einsum_strings_spell_their_names(path):
    assert check(path)


def spelled(path, call, letters, name):
    assert name in (None, letters), (
        f"{path}:{call.lineno}: the string says {letters}, the name says {name}"
    )
    return name is not None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('q_BTC = jnp.einsum("BTD,DC->BTC", x_BTD, w_DC)', False),
        ('q_BTC = jnp.einsum("BTD,DC->BTC", x_BTD, w_CD)', True),
        ('q_BTQ = jnp.einsum("BTD,DC->BTC", x_BTD, w_DC)', True),
        ('q_BTC += f("BTD") + jnp.einsum("BTD,DC->BTC", x.y_BT.astype(z), w)', True),
        ('a_BT, q_BD = 0, constrain(jnp.einsum("BTD,DC->BTC", x, w), "batch")', True),
        ('y = jnp.einsum("BTD,DC->BTC", x, self.weight("w"))', False),
    ],
)
def test_the_test(line, wrong, tmp_path):
    file = tmp_path / "line.py"
    file.write_text(line)
    if wrong:
        with pytest.raises(AssertionError, match="the string says"):
            check(file)
    else:
        check(file)
