"""Steps of GRPO per minute: seekjax against TRL's GRPOTrainer on torch, same shape, same batch,
f32, on this CPU.

    python -m tests.benchmarks.trl_step --peer PYTHON [--steps 6] [--prompts 16] [--group 8] [--new 64]

PYTHON is an interpreter that has trl, torch and transformers. Both draw --prompts x --group answers
of exactly --new tokens to problems of countdown by random weights of the shape of
configs/countdown.py, reward what a text's bytes say, and make one update with the k3 divergence
from a reference (DeepSeekMath's GRPO), AdamW at a rate of 1e-6. The sides take turns, a run at a
time; the first two steps of a run, which compile and warm, are left out. Results:
tests/benchmarks/results/rollout.md
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.decode import NAMES

PROMPT = "24 from 3 5 9 17"


def vowels(text: str) -> float:
    """A reward of any text, the same on both sides."""
    return sum(text.count(vowel) for vowel in "aeiou") / max(1, len(text))


def ours(options, folder: Path) -> list[float]:
    """When each step was over."""
    from contextlib import closing
    from dataclasses import replace

    import jax

    from configs.countdown import config as countdown
    from configs.grpo import config as grpo
    from seekjax.checkpoint.config_json import to_json
    from seekjax.checkpoint.write import Checkpoints
    from seekjax.data import load_tokenizer
    from seekjax.placement import use_mesh
    from seekjax.post.rl.grpo import Reinforcement
    from seekjax.train.loop import fit
    from seekjax.train.state import RunSpec

    base = replace(countdown, sft=None)
    load_tokenizer(base.data, base.model.vocab, None).save(folder)
    with use_mesh(base.mesh), closing(Checkpoints(folder, keep=1)) as checkpoints:
        checkpoints.save(1, RunSpec(base).start(), data=None, config=to_json(base))
        checkpoints.wait()
    ended = []

    class Endless(Reinforcement):
        """No text ends before max_new tokens, and the time of every step is noted."""

        def build(self, folder):
            parts = super().build(folder)
            parts.source.rollouts.sampler.stop_X[:] = -1

            def step(state, batch):
                result = jax.block_until_ready(parts.step(state, batch))
                ended.append(time.perf_counter())
                return result

            return replace(parts, step=step, evaluate=lambda state: ({}, "not measured"))

    rows = options.prompts * options.group
    settings = replace(
        grpo.grpo,
        prompts=options.prompts,
        group=options.group,
        max_new=options.new,
        recipe="grpo",
        preflight=False,
        tasks=("countdown:1",),
        rewards=(("trl_step:reward", 1.0),),
    )
    fit(
        replace(
            grpo,
            init=folder,
            out=folder / "run",
            grpo=settings,
            data=replace(grpo.data, sequence=options.new + 32),
            optimizer=replace(grpo.optimizer, learning_rate=1e-6),
            train=replace(
                grpo.train, steps=options.steps, batch=rows, eval_every=10**6, save_every=10**6
            ),
        ),
        Endless,
    )
    return ended


def reward(problem, text, tokens) -> float:
    return vowels(text)


def peer(options, folder: Path) -> list[float]:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        DeepseekV3Config,
        DeepseekV3ForCausalLM,
        PreTrainedTokenizerFast,
        TrainerCallback,
    )
    from trl import GRPOConfig, GRPOTrainer

    torch.manual_seed(0)
    sizes = json.loads(options.shape)
    backend = Tokenizer(
        models.BPE(
            {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
            | {"<pad>": 256, "<eos>": 257},
            [],
        )
    )
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>"
    )
    config = DeepseekV3Config(
        **{theirs: sizes[name] for theirs, name in NAMES.items()},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=257,
        pad_token_id=256,
    )
    model = DeepseekV3ForCausalLM._from_config(config, experts_implementation=options.experts)
    model.config._name_or_path = str(folder / "model")  # TRL reads its reference from there
    model.save_pretrained(folder / "model")
    ended = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ended.append(time.perf_counter())

    rows = options.prompts * options.group
    asked = GRPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=rows,
        num_generations=options.group,
        max_completion_length=options.new,
        generation_kwargs={"min_new_tokens": options.new},
        max_steps=options.steps,
        learning_rate=1e-6,
        beta=0.04,
        loss_type="grpo",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        temperature=1.0,
    )
    trainer = GRPOTrainer(
        model,
        lambda completions, **_: [vowels(text) for text in completions],
        asked,
        Dataset.from_dict({"prompt": [PROMPT] * 1024}),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer",
        default=sys.executable,
        help="the interpreter that has trl, torch and transformers",
    )
    for name, value in (("steps", 6), ("turns", 2), ("prompts", 16), ("group", 8), ("new", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--experts", default="", help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            print(
                "ENDED",
                json.dumps({"ours": ours, "peer": peer}[options.side](options, Path(folder))),
            )
        return

    from tests.benchmarks.rollout import shape

    sides = {
        "ours": (sys.executable, ""),
        "grouped_mm": (options.peer, "grouped_mm"),
        "eager": (options.peer, "eager"),
    }
    seconds = {name: [] for name in sides}
    for _ in range(options.turns):
        for name, (python, experts) in sides.items():
            command = [
                python,
                "-m",
                "tests.benchmarks.trl_step",
                "--side",
                "ours" if name == "ours" else "peer",
                "--experts",
                experts,
                "--shape",
                json.dumps(shape()),
            ]
            command += [
                word
                for field in ("steps", "prompts", "group", "new")
                for word in (f"--{field}", str(getattr(options, field)))
            ]
            found = subprocess.run(command, capture_output=True, text=True)
            if found.returncode:
                sys.exit(f"{name} failed:\n{found.stderr[-3000:]}")
            ended = json.loads(
                next(
                    line for line in found.stdout.splitlines() if line.startswith("ENDED")
                ).removeprefix("ENDED")
            )
            seconds[name] += [after - before for before, after in itertools.pairwise(ended)]
    mine = median(seconds["ours"])
    print(
        f"{options.prompts} prompts x {options.group} samples x {options.new} tokens\n\n| "
        "| seconds per step | steps per minute | ours against it |\n|---|---|---|---|"
    )
    for name, times in seconds.items():
        print(
            f"| {name} | {median(times):.2f} | {60 / median(times):.1f} | "
            f"{median(times) / mine:.2f}x |"
        )


if __name__ == "__main__":
    main()
