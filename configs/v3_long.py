"""DeepSeek-V3's context, extended in two phases to 32K and 128K (2412.19437, section 4.3).

    # only show the lines, each of which also works by itself
    python train.py v3_long --plan --32k.data.sources corpus/ --128k.data.sources corpus/

Hardware: 2,048 accelerators of 80 GB, as for the pre-training that comes first. Each phase takes
1,000 steps at the last learning rate of pre-training, with YaRN by a factor of 40. A batch shrinks
as the sequences grow, so that a step has 62,914,560 tokens in every phase. Devices share out the
positions of a sequence, 4,096 each; both phases fit 2,048 H800 by `seekjax plan`. Published: 119K
H800 hours.
"""

from seekjax.workflow import Options, Train, Workflow

MICRO_BATCHES = 15  # of a step, whose devices have one sequence each or a part of one
PHASE: Options = {
    "optimizer.learning_rate": 7.3e-6,
    "optimizer.warmup": 0,
    "optimizer.schedule": ["1:1"],
    "train.steps": 1000,
    "train.batch_start": 0,
    "train.batch_ramp": 0,
    "train.balance_rate": 0,
    "train.mtp_weight": 0.1,
    "train.mtp_schedule": ["1:1"],
    "mesh.data": 2,
    "mesh.expert": 16,
    "mesh.tensor": 2,
}


def phase(name: str, init: str, context: int, batch: int, meshes: Options) -> Train:
    """Extend the model of a step to a context."""
    longer: Options = {
        "extend.context": context,
        "data.sequence": context,
        "train.batch": batch,
        "train.micro_batch": batch // MICRO_BATCHES,
    }
    return Train("v3", name=name, init=init, options={**longer, **PHASE, **meshes})


workflow = Workflow(
    about=__doc__,
    steps=[
        Train("v3", name="base"),
        phase(
            "32k",
            init="base",
            context=32_768,
            batch=1920,
            meshes={"mesh.fsdp": 4, "mesh.context": 8},
        ),
        phase(
            "128k",
            init="32k",
            context=131_072,
            batch=480,
            meshes={"mesh.fsdp": 1, "mesh.context": 32},
        ),
    ],
)
