"""Every mesh that a run could use, the fastest first, and what a run that fits none would take."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from seekjax.config import Config
from seekjax.errors import ConfigError
from seekjax.model.check import split_sizes
from seekjax.plan.chips import Chip
from seekjax.plan.layout import Layout
from seekjax.plan.memory import Memory, memory
from seekjax.plan.step import StepTime, step_time
from sharding.mesh_config import MeshConfig
from sharding.show import human

USABLE = 0.9  # of a chip's memory; the rest is the runtime's, and what a compiler holds besides
MOST_SEQUENCES = 64  # per device and forward pass
LEAST_POSITIONS = 4096  # of a sequence on each device
NARROWEST = 128  # columns of a part of an expert's hidden width
DOUBLINGS = 12  # of the devices, when looking for a number that is enough


@dataclass(frozen=True)
class Choice:
    """A mesh and a micro-batch, and what they lead to."""

    layout: Layout
    memory: Memory
    time: StepTime

    @property
    def micro_batch(self) -> int:
        """Sequences of one forward pass over the whole mesh."""
        return self.layout.config.train.rows


def assess(layout: Layout, chip: Chip) -> Choice:
    """Return a mesh with its memory and time."""
    return Choice(layout, memory(layout), step_time(layout, chip))


def choices(config: Config, chip: Chip, devices: int) -> list[Choice]:
    """Return what fits, the fastest first: of each mesh the micro-batch with the fastest step.

    Speed is that of a step in which nothing overlaps; of equal ones the one with more memory left.
    Where a link has no figure, those that send least over it come first.
    """
    fitting = []
    for mesh in meshes(config, devices, chip.node):
        # A larger micro-batch takes more memory
        enough = []
        for layout in micro_batches(config, mesh):
            needed = memory(layout)
            if needed.total > USABLE * chip.memory:
                break
            enough.append(Choice(layout, needed, step_time(layout, chip)))

        # Of equally fast ones the largest, which fills the chip best
        if enough:
            fitting.append(min(reversed(enough), key=_slowness))
    return sorted(fitting, key=lambda choice: (*_slowness(choice), choice.memory.total))


def _slowness(choice: Choice) -> tuple[float, float]:
    return choice.time.uncounted, float(f"{choice.time.serial:.4g}")


def meshes(config: Config, devices: int, node: int) -> Iterator[dict[str, int]]:
    """Yield the sizes of every mesh of this many devices whose axes divide the model.

    A width is cut only within a node, whose devices sum it in every layer, and an expert's not into
    parts narrower than a tile. A sequence is split into parts of at least LEAST_POSITIONS.
    """
    axes = split_sizes(config.model)
    experts = axes.get("experts", 1)
    for expert in divisors(devices):
        if experts % expert:
            continue
        for tensor in divisors(devices // expert):
            too_narrow = tensor > 1 and config.model.expert_hidden < NARROWEST * tensor
            if tensor > node or too_narrow:
                continue
            for context in _contexts(config, devices // expert // tensor):
                others = devices // expert // tensor // context
                nodes = _nodes(expert, context * tensor, node)
                for sharded in divisors(others):
                    data = others // sharded
                    mesh = MeshConfig(data, sharded, nodes, expert // nodes, context, tensor)
                    sizes = mesh.sizes(devices)
                    if _divides(config, sizes, axes):
                        yield sizes


def _contexts(config: Config, devices: int) -> list[int]:
    """Return into how many parts this many devices may split a sequence; short ones are not."""
    sequence = config.data.sequence
    parts = divisors(max(1, sequence // LEAST_POSITIONS), of=devices)
    return [count for count in parts if count == 1 or sequence % (2 * count) == 0]


def _nodes(expert: int, inner: int, node: int) -> int:
    """Return between how many nodes of this many devices the experts are split; `inner` devices
    share each one's work.
    """
    nodes = max(1, expert * inner // node)
    return nodes if expert % nodes == 0 else 1


def _divides(config: Config, mesh: dict[str, int], axes: dict[str, int]) -> bool:
    layout = Layout(config, tuple(mesh.items()))
    remainders = [size % layout.split(name) for name, size in axes.items()]
    return not any(remainders)


def micro_batches(config: Config, mesh: dict[str, int]) -> Iterator[Layout]:
    """Yield the run on a mesh with each micro-batch that makes up its batch, the smallest first."""
    train = config.train
    least = Layout(config, tuple(mesh.items())).split("batch")
    if train.batch % least:
        return
    for each in divisors(min(train.batch // least, MOST_SEQUENCES), of=train.batch // least):
        size = least * each
        if train.batch_start % size == 0:
            sized = replace(config, train=replace(train, micro_batch=size))
            yield Layout(sized, tuple(mesh.items()))


def divisors(most: int, of: int = 0) -> list[int]:
    """Return the divisors of a number that are at most `most`; by default, those of `most`."""
    number = of or most
    return [i for i in range(1, most + 1) if number % i == 0]


def best(config: Config, chip: Chip, devices: int) -> list[Choice]:
    """Return `choices`. Raises ConfigError with what would make a run that fits none possible."""
    found = choices(config, chip, devices)
    if found:
        return found

    layouts = [
        layout
        for mesh in meshes(config, devices, chip.node)
        for layout in micro_batches(config, mesh)
    ]
    if not layouts:
        raise ConfigError(
            f"no mesh of {devices:,} devices divides the model and its batch of "
            f"{config.train.batch} sequences: take a number of devices that divides "
            f"{_common(config)}, or another --train.batch."
        )
    needs = [memory(layout).total for layout in layouts]
    raise ConfigError(
        f"the run does not fit on {devices:,} x {chip.name}: the best mesh takes "
        f"{human(min(needs))} per device, and {human(USABLE * chip.memory)} are usable; "
        f"{_remedy(config, chip, devices)}."
    )


def _common(config: Config) -> str:
    experts = split_sizes(config.model).get("experts", 1)
    return f"the {experts} experts times a divisor of model.embed {config.model.embed}"


def _remedy(config: Config, chip: Chip, devices: int) -> str:
    """Return what would make a run possible: less kept, or more devices, or both."""
    leanest = replace(config, kernel=replace(config.kernel, remat="full"))
    if config.kernel.remat != "full" and choices(leanest, chip, devices):
        return "it fits with --kernel.remat full"

    counts = [devices * 2**i for i in range(DOUBLINGS + 1)]
    for _, count in pairwise(counts):
        for candidate, words in ((config, ""), (leanest, " --kernel.remat full")):
            if any(_fitting(candidate, chip, count)):
                return f"it fits with --on {chip.name}:{count}{words}"
    return "take a chip with more memory, a smaller model, or --kernel.capacity 2"


def _fitting(config: Config, chip: Chip, devices: int) -> Iterator[bool]:
    """Yield, for each mesh of this many devices, whether its smallest micro-batch fits."""
    for mesh in meshes(config, devices, chip.node):
        for layout in micro_batches(config, mesh):
            yield memory(layout).total <= USABLE * chip.memory
            break
