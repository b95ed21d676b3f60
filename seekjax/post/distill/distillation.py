"""Distillation: fine-tuning to a teacher's probabilities of every token instead of one token.

criterion.py has the loss, teacher.py the teacher, saved_logits.py its saved log-probabilities,
on_policy.py the same loss on the student's own answers.

Distillation from samples, R1's own (2501.12948, section 2.4), is plain fine-tuning: `seekjax sample
TEACHER --task T --out kept.jsonl`, then `python train.py sft --sft.chats kept.jsonl`. There
vocabularies may differ.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from seekjax.config import Config, DistillConfig
from seekjax.errors import ConfigError, need
from seekjax.post import plots
from seekjax.post.distill.criterion import (
    Measure,
    compile_match,
    compile_taught_gradient,
    direction,
)
from seekjax.post.distill.saved_logits import LogitStore
from seekjax.post.distill.teacher import Teacher
from seekjax.post.samples.batches import HeldOut, held_out_samples, load_format, training_batches
from seekjax.post.samples.corpus import load_samples
from seekjax.post.samples.template import ChatFormat
from seekjax.post.tune.report import of_sources
from seekjax.post.tune.sft import SftReport, check_start, pack_whole
from seekjax.train.held_out import add_up, bits_per_byte
from seekjax.train.lora import make_spec
from seekjax.train.source import BatchSource
from seekjax.train.state import TrainState
from seekjax.train.step import BATCH
from seekjax.train.training import Parts
from sharding.place import put_batch

Batch = dict[str, jax.Array]


class Inputs(NamedTuple):
    """What every distillation reads and checks first."""

    config: Config  # with the data settings of a run on samples
    teacher: Teacher
    chat_format: ChatFormat


def read_inputs(config: Config, distill: DistillConfig) -> Inputs:
    """Open the teacher's folder, then the student's tokenizer and template.

    A student without --init has its teacher's tokenizer and template.

    Raises ConfigError, DataError, RunError or WeightsError.
    """
    teacher = Teacher(config, distill)
    config = pack_whole(config)
    if config.init is None:
        config = replace(config, data=replace(config.data, tokenizer=str(teacher.folder)))
    check_start(config, "distillation")
    teacher.check_vocabulary(config)

    home = config.init or distill.teacher
    chat_format = load_format(config, home, distill)
    teacher.check(config, chat_format.tokenizer)
    return Inputs(config, teacher, chat_format)


class Distillation:
    """The train.training.Training of `python train.py distill`."""

    shared_position = False  # each process reads its own share

    def __init__(self, config: Config):
        self.distill = check(config)
        self.config = config
        self.packed, self.teacher, self.chat_format = read_inputs(config, self.distill)
        self.tokenizer = self.chat_format.tokenizer
        self.corpus = load_samples(
            self.distill, self.packed.data, config.train.seed, self.chat_format, "distill"
        )

    def manifest(self) -> dict[str, Any]:
        """Return what exactly is read, for data.json."""
        return self.corpus.manifest()

    def build(self, folder: Path) -> Parts:
        """Compile on the mesh in use. Raises DataError if saved logits are of another run."""
        config, teacher = self.packed, self.teacher
        spec = make_spec(config)
        step, measure = compile_match(spec, self.distill, self.tokenizer.bytes_V, teacher)

        # Batches with targets
        targets = Targets(teacher, self.open_store())
        batches = training_batches(config, self.corpus, self.chat_format, self.distill.language)
        held_out = held_out_samples(config, self.corpus, self.tokenizer.pad)

        self.chat_format.chat.save(folder, jax.process_index() == 0)
        return Parts(
            spec=spec,
            source=TaughtSource(BatchSource(config, batches), targets),
            step=step,
            evaluate=HeldOutDistance(held_out, targets, measure),
            report=DistillReport(SftReport(spec, self.corpus, self.chat_format), teacher),
            gradient=compile_taught_gradient(spec, self.distill, self.tokenizer.bytes_V, teacher),
        )

    def open_store(self) -> LogitStore | None:
        """Return the store of the teacher's log-probabilities, if the run has one."""
        distill, config = self.distill, self.packed
        if distill.save_logits is None:
            return None

        made_for = {
            "tokenizer": self.tokenizer.fingerprint(),
            "template": self.chat_format.fingerprint(),
            "data": self.corpus.fingerprint(),
            "sequence": config.data.sequence,
            "seed": config.train.seed,
            "vocab": config.model.vocab,
            "teacher": self.teacher.fingerprint,
            "top_k": distill.top_k,
            "temperature": distill.temperature,
        }
        return LogitStore(distill.save_logits.expanduser(), made_for)


class Targets:
    """The teacher's targets of named batches, read from a store if there is one."""

    def __init__(self, teacher: Teacher, store: LogitStore | None):
        self.teacher = teacher
        self.store = store

    def __call__(self, batch: Batch, name: str) -> Batch:
        """Return the targets of a batch; `name` is that of its file in the store."""
        if self.store is None:
            return self.teacher(batch)
        return self.store(batch, name, self.teacher)


class TaughtSource:
    """Batches of samples with the teacher's targets."""

    def __init__(self, source: BatchSource, targets: Targets):
        self.source = source
        self.targets = targets
        # Batches read so far, if that is not the step: a run that returned to an earlier step goes
        # on with other data.
        self.number: int | None = None

    def batch(self, step: int, state: TrainState) -> Batch:
        """Return the batch of a step, with its targets."""
        number = step if self.number is None else self.number
        self.number = number + 1
        batch = self.source.batch(step, state)
        return batch | self.targets(batch, f"train-{number:06}")

    def tokens(self, step: int) -> int:
        """Return the tokens of a step."""
        return self.source.tokens(step)

    def get_state(self) -> Any:
        """Return the position in the data, and which teacher the run learns from."""
        fingerprint = self.targets.teacher.fingerprint
        return {
            "teacher": fingerprint,
            "batches": self.source.get_state(),
            "number": self.number,
        }

    def set_state(self, position: Any) -> None:
        """Go on from a position. Raises DataError if the teacher is another."""
        if "processes" in position:  # of all processes, because there were others
            batches = [saved["batches"] for saved in position["processes"]]
            position = position["processes"][0] | {"batches": {"processes": batches}}
        self.targets.teacher.check_resumed(position["teacher"])
        self.source.set_state(position["batches"])
        self.number = position.get("number")  # earlier versions did not save it


class HeldOutDistance:
    """KL and loss on the answers of held-out samples, of every source apart."""

    def __init__(self, held_out: HeldOut, targets: Targets, measure: Measure):
        self.held_out = held_out
        self.targets = targets
        self.measure = measure

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Return the held-out figures, and a sentence of them."""
        if not self.held_out:
            return {}, ""

        record: dict[str, float] = {}
        by_source = {}
        for number, (name, batches) in enumerate(self.held_out.items()):
            figures = []
            for index, rows in enumerate(batches):
                batch = put_batch({part: x[None] for part, x in rows.items()}, BATCH)
                batch = batch | self.targets(batch, f"held_out-{number}-{index:06}")
                figures.append(self.measure(state.averaged, state, batch))
            sums = by_source[name] = add_up(figures)
            record[f"kl/{name}"] = sums["kl"] / sums["tokens"]
            record[f"loss/{name}"] = sums["nats"] / sums["tokens"]

        total = add_up(by_source.values())
        record["kl"] = total["kl"] / total["tokens"]
        record["loss"] = total["nats"] / total["tokens"]
        record["bits_per_byte"] = bits_per_byte(total)
        parts = of_sources("kl", record, list(by_source), 4)
        sentence = (
            f"kl {record['kl']:.4f}, loss {record['loss']:.3f} on {int(total['tokens']):,} tokens "
            "of answers"
        )
        return record, f"{sentence} (kl of {parts})" if parts else sentence


class DistillReport:
    """The words of a distillation on samples: those of fine-tuning, and the distance."""

    def __init__(self, sft: SftReport, teacher: Teacher):
        self.sft = sft
        self.teacher = teacher

    def header(self) -> list[str]:
        """Return the lines that state what will be read and trained."""
        return [*self.sft.header(), teacher_line(self.teacher)]

    def extra_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return further scalars for the record of a step."""
        return self.sft.extra_metrics(metrics)

    def progress(self, record: dict[str, Any]) -> str:
        """Return what the progress line shows of a step."""
        return f"kl {record['kl']:.4f}  {self.sft.progress(record)}"

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """Return the closing lines of a run; draws its plots into the folder."""
        return [*plot_distance(folder), *self.sft.finish(state, folder)]


def teacher_line(teacher: Teacher) -> str:
    """Return the header line with the teacher, the divergence, and which tokens are compared."""
    distill, model = teacher.distill, teacher.model
    compared = "the whole vocabulary"
    if distill.top_k:
        compared = f"its {distill.top_k} most likely tokens and the rest"
    line = (
        f"teacher: {teacher.folder}, {model.layers} layers of width {model.embed}; "
        f"{direction(distill)} divergence over {compared}"
    )
    if distill.save_logits:
        line += f"; its log-probabilities are saved in {distill.save_logits}"
    return line


def plot_distance(folder: Path) -> list[str]:
    """Draw kl.png into a run's folder, in the first process, and return its closing line."""
    if jax.process_index() != 0:
        return []
    return [f"picture: {plots.plot_distance(folder)}"]


def check(config: Config) -> DistillConfig:
    """Return the settings. Raises ConfigError if they do not fit each other."""
    distill = config.distill
    if distill is None:
        raise ConfigError("distillation needs settings: distill is None.")

    need(
        not distill.save_logits or distill.top_k > 0,
        "distill.save_logits would save whole vocabularies for every token: say how many of the "
        "most likely tokens with --distill.top-k.",
    )
    need(
        not distill.save_logits or jax.process_count() == 1,
        "distill.save_logits is for one process: save them on one host, or let the teacher stay in "
        "memory.",
    )
    return distill
