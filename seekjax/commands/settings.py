"""The options of the commands that open a model, without anything that a command needs to run.

So that --help and a mistyped option are answered before JAX is imported.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from seekjax.commands.common import Flat
from seekjax.config import Template
from seekjax.config.formats import Dtype, Kind, Type
from seekjax.config.generation import EvalConfig, Sampling
from seekjax.config.ranges import Count, CountOrZero, NotNegative, Port
from sharding.mesh_config import MeshConfig

Vocabulary = Literal["same", "int8"]
ANSWER = Sampling(max_new=2048, temperature=0.6, top_p=0.95)  # as R1's model card recommends


@dataclass(frozen=True)
class ModelOptions:
    """Which model generates, and how it computes."""

    # a run's folder, or that of a published checkpoint
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="model")]
    # of weights and activations; default: a run's own, and that of a checkpoint's files (on a CPU
    # float32, which is faster, if it fits into the memory)
    dtype: Literal["float32", "bfloat16"] | None = None
    cache: Literal["same", "bfloat16", "fp8"] = "same"  # of latents; same: as dtype
    # let the prediction module draft tokens; default: if there is one and it is faster, so not on
    # a CPU
    draft: bool | None = None
    # the folder of the weights that a run's adapters belong to, if they have moved
    base: Path | None = None
    # import the module:name choices that the folder's config.json names
    trust: bool = False


@dataclass(frozen=True)
class RedundantExperts:
    """Copies of popular experts, so that the devices of a mesh that splits them are balanced."""

    # their number in each layer; the tokens stay the same
    redundant_experts: CountOrZero = 0
    # a text that shows which experts are popular; default: the newest load in a run's record
    load_text: Path | None = None


@dataclass(frozen=True)
class Generate:
    """Continue a text."""

    model: Flat[ModelOptions]
    sampling: Flat[Sampling] = field(default_factory=Sampling)
    # what to continue; several are continued side by side; - reads standard input
    prompt: tuple[str, ...] = ("",)
    replicas: Flat[RedundantExperts] = field(default_factory=RedundantExperts)
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


@dataclass(frozen=True)
class ChatOptions:
    """Talk with a model. Ctrl-C stops an answer, Ctrl-D ends; on a terminal /help lists more."""

    model: Flat[ModelOptions]
    sampling: Flat[Sampling] = field(default_factory=lambda: ANSWER)
    system: str = ""  # the system message, before the first question
    # auto: the checkpoint's own; r1 begins every answer with thinking
    template: Template = "auto"
    # settings of the template, as thinking=true for V3.1
    template_settings: tuple[str, ...] = ()
    replicas: Flat[RedundantExperts] = field(default_factory=RedundantExperts)
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


@dataclass(frozen=True)
class Harness:
    """Tasks of lm-eval (pip install 'seekjax[lm-eval]')."""

    lm_eval: str = ""  # tasks or groups of lm-eval, as arc_easy,hellaswag
    # a folder with tasks of your own, in lm-eval's YAML
    lm_eval_tasks: Path | None = None
    limit: CountOrZero = 0  # only this number of each task's samples; 0 = all
    # solved examples before each sample; default: as the task says
    few_shot: int | None = None
    # ask in the form of a chat (--template), as lm-eval's --apply_chat_template
    as_chat: bool = False
    # without the token that a text begins with, as lm-eval's local-completions asks a server
    bare: bool = False


@dataclass(frozen=True)
class Serve:
    """Serve a model over HTTP: the protocols of OpenAI and Anthropic, and a page to chat on."""

    model: Flat[ModelOptions]
    # where to listen; 0.0.0.0 is every address of this machine, and needs a key
    host: str = "127.0.0.1"
    port: Port = 8000  # 0 = any that is free
    # what clients must send as their key; default: the environment's SEEKJAX_API_KEY
    api_key: str = ""
    # let every machine that reaches the server use it without a key
    no_key: bool = False
    name: str = ""  # of the model; default: its folder's
    alias: tuple[str, ...] = ()  # further names that requests may use
    max_batch: Count = 16  # requests that are answered together
    # threads that divide these requests and share the weights; 0 = two for a small model on a CPU,
    # where one leaves the second core idle, else one
    engines: CountOrZero = 0
    queue: CountOrZero = 64  # further requests that may wait; the others are refused with 429
    # tokens of a prompt with its answer at most; 0 = the model's context
    context: CountOrZero = 0
    pages: CountOrZero = 0  # of the cache; 0 = as many as fit
    # auto: the checkpoint's own; r1 begins every answer with thinking
    template: Template = "auto"
    # settings of the template, as thinking=true for V3.1
    template_settings: tuple[str, ...] = ()
    log_prompts: bool = False  # write what is asked into the log
    max_body: Count = 8 * 2**20  # bytes of a request
    max_connections: Count = 256  # of one address at a time
    # seconds that answers in progress may take after a signal to end
    drain: NotNegative = 60.0
    replicas: Flat[RedundantExperts] = field(default_factory=RedundantExperts)
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


@dataclass(frozen=True)
class Eval:
    """Bits per byte and perplexity of a text; pass@1, pass@k and cons@k on held-out problems; or
    tasks of lm-eval.
    """

    # a run's folder, or that of a published checkpoint
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="model")]
    # a .txt .jsonl .parquet .arrayrecord file or folder, or stdlib, arithmetic, stories: their
    # held-out documents
    data: str = ""
    documents: CountOrZero = 0  # only this number; 0 = all, 1,000 of a built-in source
    sequence: Count = 256  # tokens per row; the model reads nothing before its row
    # rows at a time, over the whole mesh; it changes the speed alone. Default: 8 rows of text,
    # 128 samples, 16 texts of lm-eval
    batch: Count | None = None
    text_field: str = "text"  # column or key that holds the text in .jsonl and .parquet
    # records the progress, so that the same command resumes; default: eval-DATA.json next to the
    # weights
    progress: Path | None = None
    questions: Flat[EvalConfig] = field(default_factory=EvalConfig)
    harness: Flat[Harness] = field(default_factory=Harness)
    # where the figures of tasks go; default: eval-TASK.json next to the weights
    report: Path | None = None
    # the folder of the weights that a run's adapters belong to, if they have moved
    base: Path | None = None
    # import the module:name choices that the folder's config.json names
    trust: bool = False
    replicas: Flat[RedundantExperts] = field(default_factory=RedundantExperts)
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


@dataclass(frozen=True)
class Convert:
    """Turn a published checkpoint (config.json and .safetensors files) into a run folder, a run
    into a published checkpoint, either into a file for llama.cpp, or a run's adapters into PEFT's.
    """

    source: Annotated[Path, tyro.conf.arg(name="from")]  # a published checkpoint or a run folder
    to: Path | None = None  # a new folder
    # instead: a new file for llama.cpp, without the prediction modules (extra [gguf])
    to_gguf: Path | None = None
    # instead: a new folder with a run's adapters alone, for PEFT
    to_peft: Path | None = None
    type: Type = "f32"  # of the matrices in a GGUF file
    dtype: Dtype = "bf16"  # of the matrices in a published checkpoint; a run has float32
    # also give the run an optimizer's moments, so that train.py can continue it; three times the
    # size
    trainable: bool = False
    # the folder of the weights that a run's adapters belong to, if they have moved
    base: Path | None = None
    # import the module:name choices that the folder's config.json names
    trust: bool = False
    mesh: MeshConfig = MeshConfig(data=1)  # the devices that hold the weights meanwhile


@dataclass(frozen=True)
class Quantize:
    """Store the matrices of a model in few bits; norms and router stay as they are."""

    # a run folder or a published checkpoint
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="model")]
    # int8 per output channel; int4 in groups of up to 128; fp8 (E4M3) in blocks of up to 128 x 128
    to: Kind
    out: Path  # a new run folder
    # embedding and head: as they are, or int8, of which each row and column has a scale
    vocabulary: Vocabulary = "same"
    # the folder of the weights that a run's adapters belong to, if they have moved
    base: Path | None = None
    # import the module:name choices that the folder's config.json names
    trust: bool = False
    mesh: MeshConfig = MeshConfig(data=1)  # the devices that hold the weights meanwhile


@dataclass(frozen=True)
class Sample:
    """Sample answers to training problems, and keep the right ones as chats to fine-tune on."""

    # a run's folder, or that of a published checkpoint
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="model")]
    # the .jsonl file to write or replace: {"messages": [...], "task", "level", "reward"} per line
    out: Path
    questions: Flat[EvalConfig] = field(
        default_factory=lambda: EvalConfig(problems=2000, samples=4)
    )
    # all: every complete answer, as a student may learn from its teacher's mistakes too
    keep: Literal["right", "all"] = "right"
    # drop samples with thoughts in words of another language
    language: Literal["en", "zh"] | None = None
    # at most this number per problem, the shortest first; 0 = all that differ
    per_problem: CountOrZero = 0
    batch: Count = 128  # samples at a time, over the whole mesh; it changes the speed alone
    # the folder of the weights that a run's adapters belong to, if they have moved
    base: Path | None = None
    # import the module:name choices that the folder's config.json names
    trust: bool = False
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what
