"""Train a DeepSeek model: `python train.py [CONFIG] [--field value ...]`, or `seekjax train ...`.

    # the default run, configs/tiny.py, on whatever is here
    python train.py
    python train.py small --train.steps 2000 --out runs/a
    # a workflow of several runs
    python train.py r1
    # eight emulated devices
    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 python train.py tiny --mesh.fsdp 2 --mesh.expert 2

Where to read on:

    configs/tiny.py                       what the default run changes; one file per run
    seekjax/config/                       every setting, with a comment each
    seekjax/train/loop.py                 `fit`, the training loop
    seekjax/model/transformer.py          the model, block by block
    seekjax/model/routing.py              which experts a token visits, and the balancing bias
    seekjax/train/step.py                 one optimizer step
    seekjax/post/                         fine-tuning, preferences, distillation, reinforcement
    sharding/                             where arrays live
"""

import sys

from seekjax.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
