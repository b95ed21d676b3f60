"""The default run's context, extended in two phases from 256 to 1,024 and 4,096: V3's recipe in
small (2412.19437, section 4.3).

    python train.py tiny_long
    # the positions of each sequence shared out over two devices
    JAX_NUM_CPU_DEVICES=2 python train.py tiny_long --4k.mesh.context 2

Hardware: two CPU cores. Every phase takes 60 steps of 4,096 tokens, twice those of a step of the
default run, at two thirds of its last learning rate, with YaRN by a factor of 20. What the longer
context is worth, by position and for a line planted far back, is in
tests/benchmarks/results/long_context.md.
"""

from seekjax.workflow import Options, Train, Workflow

PHASE: Options = {
    "extend.original_context": 256,
    "extend.factor": 20,
    "optimizer.learning_rate": 3e-4,
    "optimizer.warmup": 0,
    "optimizer.schedule": ["1:1"],
    "train.steps": 60,
    "train.eval_every": 60,
    "train.eval_batches": 2,
}


def phase(name: str, init: str, context: int, batch: int) -> Train:
    """Extend the model of a step to a context."""
    longer: Options = {
        "extend.context": context,
        "data.sequence": context,
        "train.batch": batch,
    }
    return Train("tiny", name=name, init=init, options={**longer, **PHASE})


workflow = Workflow(
    about=__doc__,
    steps=[
        Train("tiny", name="base"),
        phase("1k", init="base", context=1024, batch=4),
        phase("4k", init="1k", context=4096, batch=1),
    ],
)
