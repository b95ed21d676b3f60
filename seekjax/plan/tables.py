"""What a plan prints: a table for each question, with what its figures assume."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from seekjax.config import Config
from seekjax.model.count import cache_bytes, cache_elements, parameters
from seekjax.plan.chips import Chip
from seekjax.plan.cost import DAY, HOUR, Cost
from seekjax.plan.counts import TRAINING, forward_flops
from seekjax.plan.inference import COMBINE, DISPATCH, Serving
from seekjax.plan.layout import Layout
from seekjax.plan.memory import POLICIES, memory
from seekjax.plan.meshes import USABLE, Choice
from seekjax.plan.traffic import copies_between, exchange, transfers
from sharding.show import align as padded
from sharding.show import human

BILLION = 1e9
WIDEST = 100  # characters of a sentence in a line
SHOWN = 4  # meshes


def align(rows: Sequence[tuple[str, ...]], left: int) -> str:
    """Return rows in columns, without blanks at the ends of the lines."""
    lines = [line.rstrip() for line in padded(rows, left).splitlines()]
    return "\n".join(lines)


def model_table(config: Config) -> str:
    """Return parameters, cache, and the FLOPs of training on one token by part."""
    model, sequence = config.model, config.data.sequence
    count = parameters(model)
    prediction = f" (and {_billions(count.mtp)} for prediction)" if count.mtp else ""
    lines = [
        f"{_billions(count.total)} parameters{prediction}, "
        f"{_billions(count.active_without_embedding)} active per token, without the embedding",
        f"cache per token: {cache_elements(model):,} numbers, {cache_bytes(model):,} bytes in "
        "bfloat16",
    ]

    parts = forward_flops(model, sequence)
    total = sum(parts.values())
    rows = [("training, per token", "GFLOP", "share")]
    for name, flops in parts.items():
        rows.append((name, f"{TRAINING * flops / 1e9:,.4g}", f"{flops / total:.1%}"))
    rows.append(("all", f"{TRAINING * total / 1e9:,.4g}", ""))
    if count.mtp:
        without = TRAINING * (total - parts["prediction"]) / 1e9
        rows.append(("without prediction, as papers count", f"{without:,.4g}", ""))
    notes = f"(three forward passes, causal, in sequences of {sequence:,})"
    return "\n".join([*lines, "", align(rows, left=1), notes])


def memory_table(layout: Layout, chip: Chip | None) -> str:
    """Return the bytes of each device by kind, and the total under each recomputation policy."""
    needed = memory(layout)
    rows = [("memory per device", "")]
    rows += [(name, human(size)) for name, size in needed.rows().items()]
    rows.append(("all, under remat " + layout.config.kernel.remat, human(needed.total)))
    lines = [align(rows, left=1)]

    others = []
    for remat in POLICIES:
        if remat != layout.config.kernel.remat:
            others.append(f"{remat} {human(memory(layout, remat).total)}")
    lines.append(f"under the other policies: {', '.join(others)}")
    if chip is not None:
        usable = USABLE * chip.memory
        verdict = "fits" if needed.total <= usable else "does not fit"
        lines.append(
            f"{chip.name} has {human(chip.memory)}, of which {USABLE:.0%} are planned on: the run "
            f"{verdict} ({needed.total / usable:.0%})"
        )
    return "\n".join(lines)


def traffic_table(choice: Choice, chip: Chip) -> str:
    """Return what each collective sends, and the time of a step by what takes it."""
    layout, time = choice.layout, choice.time
    rows = [("received per device", "per layer", "inside", "between", "seconds")]
    for sent in transfers(layout, chip.node):
        seconds = sent.seconds(chip)
        rows.append(
            (
                sent.name,
                human(sent.per_layer) if sent.per_layer else "",
                human(sent.inside),
                human(sent.between),
                "not known" if seconds is None else f"{seconds:.3g}",
            )
        )
    lines = [align(rows, left=1)] if len(rows) > 1 else ["one device: nothing is sent"]

    lines += _copies_lines(layout, chip)

    # The time of a step, by what takes it
    heading = ("time of a step", "compute", "memory", "inside", "between", "serial", "overlapped")
    row = [f"{layout.step_tokens:,} tokens"]
    for seconds in (*time.parts.values(), time.serial, time.overlapped):
        row.append(f"{seconds:.3g} s")
    if time.left_out:
        row[4] = "not known"
    lines += ["", align([heading, tuple(row)], left=1)]
    dtype = layout.config.kernel.dtype
    lines.append(
        f"bound by {time.bound}; compute at the {dtype} peak of {chip.peak(dtype) / 1e12:.4g} "
        "TFLOP/s, links inside and between nodes at their full speed"
    )
    if time.left_out:
        lines.append(
            f"left out, as no source here gives the link between nodes of {chip.name}: "
            f"{', '.join(time.left_out)}"
        )
    return "\n".join(lines)


def _copies_lines(layout: Layout, chip: Chip) -> list[str]:
    """Return what other exchanges of tokens between nodes would send, next to the flat one."""
    model, peers = layout.config.model, layout.peers
    nodes = peers.size // peers.inside(chip.node)
    if nodes < 2 or model.layers == model.dense_layers:
        return []

    rows = [(f"copies of a token between {nodes} nodes", "", "between", "seconds")]
    for name, copies in copies_between(model, nodes).items():
        sent = exchange(layout, chip.node, copies)
        seconds = sent.seconds(chip)
        words = "not known" if seconds is None else f"{seconds:.3g}"
        rows.append((name, f"{copies:.2f}", human(sent.between), words))
    return ["", align(rows, left=1)]


def meshes_table(found: list[Choice], chip: Chip) -> str:
    """Return the meshes that fit with the fastest steps, and why the first is recommended."""
    heading = ("meshes that fit", "micro-batch", "memory", "serial", "overlapped", "bound by")
    rows: list[tuple[str, ...]] = [heading]
    for choice in found[:SHOWN]:
        rows.append(
            (
                mesh_words(choice.layout),
                f"{choice.micro_batch:,}",
                human(choice.memory.total),
                f"{choice.time.serial:.3g}",
                f"{choice.time.overlapped:.3g}",
                choice.time.bound,
            )
        )
    first = found[0]
    options = [f"--mesh.{name} {size}" for name, size in first.layout.axes]
    reason = (
        f"recommended, as the fastest of {len(found)} if nothing overlaps:\n  "
        f"{' '.join(options)} --train.micro-batch {first.micro_batch}"
    )
    return "\n".join([align(rows, left=1), reason])


def mesh_words(layout: Layout) -> str:
    """Return the mesh axes of more than one device."""
    axes = [f"{name} {size}" for name, size in layout.axes if size > 1]
    return " x ".join(axes) or "1 device"


def cost_table(cost: Cost, flops: float, chip: Chip, layout: Layout, basis: str) -> str:
    """Return speed, hours, dollars and days.

    flops: per token, as papers count. basis: where the speed comes from.
    """
    rate = flops * cost.tokens_per_second / cost.devices
    share = rate / chip.peak(layout.config.kernel.dtype)
    rows = [
        ("speed", f"{cost.tokens_per_second:,.0f} tokens/s", basis),
        (
            "per device",
            f"{rate / 1e12:,.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:,.1f} GFLOP/s",
            f"{share:.1%} of the {layout.config.kernel.dtype} peak, at {flops / 1e9:.4g} "
            "GFLOP/token",
        ),
        ("per step", f"{layout.step_tokens:,} tokens", "batch x sequence"),
        (
            "per trillion tokens",
            f"{_hours(cost.hours_per_trillion)} device-hours",
            f"{_time(cost.days_per_trillion)} on {_devices(cost.devices)}",
        ),
    ]

    # What it adds up to
    if cost.tokens:
        tokens = f"{cost.tokens / 1e12:.4g}T" if cost.tokens >= 1e11 else f"{cost.tokens:,.0f}"
        rows.append(
            ("pre-training", f"{_hours(cost.training_hours)} device-hours", f"{tokens} tokens")
        )
    if cost.phases:
        phases = " + ".join(_hours(hours) for hours in cost.phases)
        rows.append(("other phases", f"{_hours(sum(cost.phases))} device-hours", phases))
    dollars = "no price in the table: give --price"
    if cost.dollars is not None:
        dollars = f"{_dollars(cost.dollars)} at ${cost.price:.2f} per device-hour"
    rows.append(("all", f"{_hours(cost.hours)} device-hours", dollars))
    rows.append(("time", _time(cost.days), f"on {_devices(cost.devices)}"))
    return align(rows, left=3)


def saving_line(cost: Cost, other: float) -> str:
    """Return how this run compares with another's device-hours per trillion tokens."""
    saved = cost.saving(other)
    word = "less" if saved >= 0 else "more"
    return (
        f"{_hours(cost.hours_per_trillion)} device-hours per trillion tokens are {abs(saved):.1%} "
        f"{word} than {_hours(other)}"
    )


def serving_table(serving: Serving) -> str:
    """Return weights, cache and time per token of generating with a model."""
    chip = serving.chip
    rows = [
        ("the model, once", human(serving.all_bytes), f"weights in {serving.weights}"),
        (
            "weights per device",
            human(serving.weight_bytes),
            "its share of the experts, and everything else whole",
        ),
        (
            "left for the cache",
            human(serving.room) if serving.room > 0 else "nothing",
            f"of {human(chip.memory)}, {USABLE:.0%} planned on",
        ),
        (
            "cache per sequence",
            human(serving.token_bytes * serving.context),
            f"{serving.context:,} tokens of {serving.token_bytes:,.0f} bytes, in {serving.cache}",
        ),
        ("largest batch", f"{serving.largest_batch:,}", "sequences per device"),
    ]
    if not serving.sequences:
        return align(rows, left=3)

    seconds = serving.seconds()
    total = serving.sequences * serving.devices
    excess = ", more than fit" if serving.sequences > serving.largest_batch else ""
    rows += [
        ("planned batch", f"{serving.sequences:,}", f"per device, {total:,} in all{excess}"),
        ("reading memory", _milliseconds(serving.memory_seconds()), "weights in use, and caches"),
        ("computing", _milliseconds(serving.compute_seconds()), f"at the {serving.dtype} peak"),
    ]
    rows += _exchange_rows(serving)
    rows.append(
        ("time per token", _milliseconds(seconds), f"{total / seconds:,.0f} tokens/s in all")
    )
    return align(rows, left=3)


def _exchange_rows(serving: Serving) -> list[tuple[str, str, str]]:
    """Return the rows on the exchange between devices."""
    once, bound = serving.exchange_seconds(), serving.exchange_bound()
    if once is None or bound is None:
        return [("exchange", "left out", f"no source gives the links of {serving.chip.name}")]
    if not once:
        return []
    figures = (
        f"{serving.copies} copies of {serving.sequences} tokens x {serving.model.embed:,}, "
        f"{DISPATCH} byte there and {COMBINE} back"
    )
    words = f"two micro-batches of {serving.sequences} in turn, {serving.expert_layers} layers"
    return [
        ("one exchange", f"{once * 1e6:,.2f} us", figures),
        ("exchange alone", _milliseconds(bound) + " per token", words),
    ]


def what_fits(configs: dict[str, Config], serving: Serving) -> str:
    """Return which published models a device holds, and how many bytes each has."""
    rows = [("published model", "weights", "")]
    for name, config in configs.items():
        other = replace(serving, model=config.model)
        verdict = "fits" if other.room > other.token_bytes * other.context else "does not fit"
        rows.append((name, human(other.weight_bytes), verdict))
    return align(rows, left=1)


def source_line(chip: Chip) -> str:
    """Return where the figures of a chip are from."""
    return textwrap.fill(f"figures of {chip.name}: {chip.source or 'from --chips'}", WIDEST)


def _devices(count: int) -> str:
    return f"{count:,} devices" if count > 1 else "1 device"


def _billions(count: float) -> str:
    return f"{count / BILLION:.1f}B" if count >= BILLION / 10 else f"{count:,}"


def _hours(hours: float) -> str:
    if hours < 1000:
        return f"{hours:,.4g}"
    return f"{hours / 1000:,.4g}K" if hours < 1e6 else f"{hours / 1000:,.0f}K"


def _dollars(dollars: float) -> str:
    return f"${dollars / 1e6:.3f}M" if dollars >= 1e6 else f"${dollars:,.0f}"


def _time(days: float) -> str:
    if days >= 1:
        return f"{days:,.1f} days"
    seconds = days * DAY
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} s"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.2f} ms"
