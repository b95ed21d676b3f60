"""Settings of a run: data, optimizer, kernels, loop, and `Config`, which holds all of them.

`Vn` is the paper of DeepSeek-Vn (V2: 2405.04434, V3: 2412.19437). Each field has a comment with its
unit and the paper's section; seekjax/config/validate.py checks them; configs/ has one file per run.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from seekjax.config.model import ModelConfig, Name
from seekjax.config.post import DistillConfig, DpoConfig, GrpoConfig, LoraConfig, SftConfig
from seekjax.config.ranges import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Processes,
    Seed,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    Size,
)
from sharding.mesh_config import MeshConfig


@dataclass(frozen=True)
class Piece:
    """One piece of a schedule, from where the piece before it ends."""

    # where the piece ends, as a share of all training tokens
    until: ShareAboveZero
    # the multiplier at its end
    to: NotNegative
    # constant: at `to` all along; otherwise the path that leads to it
    shape: Literal["constant", "cosine", "linear"] = "constant"


# A multiplier over the run, piecewise in the share of training tokens seen (0 to 1).
Schedule = tuple[Piece, ...]

CONSTANT: Schedule = (Piece(until=1.0, to=1.0),)
# V3 section 4.2: lambda is 0.3 for the first 10T of 14.8T tokens, then 0.1.
V3_MTP: Schedule = (Piece(until=10 / 14.8, to=1.0), Piece(until=1.0, to=1 / 3))
CONSTANT_THEN_COSINE: Schedule = (Piece(until=0.3, to=1.0), Piece(1.0, to=0.1, shape="cosine"))


@dataclass(frozen=True)
class DataConfig:
    """What the model reads."""

    # stdlib, arithmetic, stories, module:name, or paths of .txt .jsonl .parquet .arrayrecord files
    # or folders of them; .txt and .jsonl may be compressed (.gz .xz .bz2 .zst)
    sources: tuple[Name, ...] = ("stdlib",)
    # share of documents drawn from each source; empty = equal shares
    weights: tuple[Positive, ...] = ()
    # bpe: byte-level, trained on the corpus and cached; byte: 256 bytes; or the path of a
    # tokenizer.json
    tokenizer: str = "bpe"
    # tokens per training sequence
    sequence: Size = 256
    # split: concatenate and cut (V3 pre-training); fit: whole documents, first fit
    packing: Literal["split", "fit"] = "split"
    # neither attention nor loss crosses documents (on in V3's SFT, off in its pre-training)
    mask_documents: bool = False
    # share of documents turned into prefix-suffix-middle form (V3 section 4.1: 0.1)
    fim_rate: Share = 0.0
    # column or key that holds the text in .jsonl and .parquet
    text_field: str = "text"
    # share of documents, by hash, kept out of training
    held_out: ShareBelowOne = 0.05
    # Grain worker processes; 0 = in this process
    workers: Processes = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, and how its learning rate moves (V3 section 4.2)."""

    # adamw; muon: matrices by Muon, embedding, head and norms by AdamW; or module:name
    name: Name = "adamw"
    # the peak
    learning_rate: NotNegative = 3e-3
    # steps of linear warm-up
    warmup: CountOrZero = 20
    # multiplier of the learning rate, after warm-up
    schedule: Schedule = CONSTANT_THEN_COSINE
    # decay of the mean of gradients
    beta1: ShareBelowOne = 0.9
    # decay of the mean of squared gradients
    beta2: ShareBelowOne = 0.95
    # of both means as stored; each step computes in float32 (V3 section 3.3.3: bfloat16)
    moments: Literal["float32", "bfloat16"] = "float32"
    # added to the root of the mean square
    eps: Positive = 1e-8
    # on weights with a fan-in; never on norm scales
    weight_decay: NotNegative = 0.1
    # largest global norm of the gradient; 0 = no limit
    clip: NotNegative = 1.0


@dataclass(frozen=True)
class Fp8Config:
    """Training in FP8 (V3 section 3.3), for kernel.dtype fp8."""

    # of activations between the products, and of what stays out of FP8: embedding, head, attention
    base: Literal["bfloat16", "float32"] = "bfloat16"
    # of the tiles; ue8m0: rounded up to powers of two (V3.1)
    scales: Literal["float32", "ue8m0"] = "float32"
    # what shares a scale in the gradient of a product's output: tile: 128 entries; block: 128 x
    # 128 entries, which V3 found to diverge (appendix B.2)
    gradients: Literal["tile", "block"] = "tile"
    # kept for the backward pass of the input of attention's w_o (V3 section 3.3.3: e5m6)
    attention_output: Literal["e4m3", "e5m6"] = "e4m3"
    # parts: a partial product per 128 terms; scaled: one product of values times scales; bfloat16:
    # the same with operands in bfloat16, exact with scales ue8m0. auto: scaled, and bfloat16 where
    # it is exact and faster
    product: Literal["auto", "scaled", "bfloat16", "parts"] = "auto"


@dataclass(frozen=True)
class KernelConfig:
    """Which of several equal implementations runs; auto chooses by the platform.

    Every choice is tested against the plain one.
    """

    # of activations and matrix products; weights, router and loss stay float32. fp8: the products
    # of attention, feed-forward layers and experts in E4M3, for training
    dtype: Literal["float32", "bfloat16", "fp8"] = "float32"
    # for dtype fp8
    fp8: Fp8Config = field(default_factory=Fp8Config)
    # as stored; the others come from `seekjax quantize` and cannot be trained (seekjax/quant)
    weights: Literal["float32", "int8", "int4", "fp8"] = "float32"
    # embedding and head as stored; the others come from `seekjax quantize` too
    vocabulary: Literal["float32", "bfloat16", "int8"] = "float32"
    # of latents while decoding; same: as dtype; fp8: E4M3 with float32 scales, rotary in bfloat16
    cache: Literal["same", "bfloat16", "fp8"] = "same"
    # scores, softmax and values of all heads
    attention: Literal["auto", "plain", "block", "splash", "dot"] = "auto"
    # matrix products over rows sorted by expert
    experts: Literal["auto", "loop", "block", "ragged"] = "auto"
    # how tokens reach their experts (sharding/exchange): auto, dense, static, ragged, two_hop or
    # two_hop_ragged (between nodes), small_batch (for decoding; "few" in older runs), or
    # module:name
    dispatch: Name = "auto"
    # of tokens on their way to experts; fp8: E4M3 with a scale per 128 numbers (V3 section 3.3.3).
    # What comes back is as computed; the gradient of the one is sent as the other
    dispatch_dtype: Literal["same", "fp8"] = "same"
    # capacity factor: maximum rows per expert shard relative to a balanced load; more are dropped.
    # 0 = no limit
    capacity: NotNegative = 0.0
    # kept for the backward pass: everything, matrix products, narrow latents, or nothing
    remat: Literal["none", "product", "latent", "full"] = "latent"
    # words of the vocabulary whose logits the loss holds at a time, for some rows
    vocab_chunk: Count = 8192

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of activations, and of the products that are not in FP8."""
        return self.fp8.base if self.dtype == "fp8" else self.dtype

    def without_fp8(self) -> "KernelConfig":
        """Return the settings for using a model that was trained in FP8."""
        return replace(self, dtype="bfloat16") if self.dtype == "fp8" else self


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    # optimizer steps in the whole run
    steps: Count = 400
    # sequences per optimizer step, over the whole mesh
    batch: Count = 32
    # sequences per forward pass, over the whole mesh; 0 = batch. The rest is gradient accumulation
    micro_batch: CountOrZero = 0
    # sequences per step at the start, growing to batch; 0 = batch from the start
    batch_start: CountOrZero = 0
    # share of the training tokens over which the batch grows (V3: 469B of 14.8T)
    batch_ramp: ShareBelowOne = 0.0
    # of the weights, the data and the samples
    seed: Seed = 0

    # Balance without an auxiliary loss (V3 section 2.1.2) and multi-token prediction

    # gamma: how far the routing bias moves per step
    balance_rate: NotNegative = 0.001
    # multiplier of gamma; V3: 0 for the last 500B tokens
    balance_schedule: Schedule = CONSTANT
    # alpha of the sequence-wise balance loss (V3 equations 17-20)
    balance_loss: NotNegative = 1e-4
    # lambda of the multi-token prediction loss (V3 equation 25)
    mtp_weight: NotNegative = 0.3
    # multiplier of lambda
    mtp_schedule: Schedule = V3_MTP
    # decay of an exponential moving average of the weights, after a warm-up; 0 = off
    ema: ShareBelowOne = 0.0

    # Updates that go bad

    # an update is skipped if its gradient norm is above this many times the recent median, or its
    # loss above the recent median by this many times the median deviation; 0 = off. Updates that
    # are not finite are always skipped
    spike: NotNegative = 0.0
    # updates skipped in a row after which the run goes back to its newest checkpoint, and on with
    # other data; 0 = never
    skip_limit: CountOrZero = 5
    # times it goes back without a new checkpoint before it stops with a diagnosis
    return_limit: CountOrZero = 3
    # steps between checks for silent data corruption: a micro-batch's gradient is computed twice
    # and compared bit for bit; 0 = off
    recompute_every: CountOrZero = 0

    # Rhythm

    # steps between lines of progress
    log_every: Count = 10
    # steps between evaluations on held-out data
    eval_every: Count = 100
    # held-out batches per evaluation, each of `batch` sequences
    eval_batches: Count = 8
    # steps between checkpoints; 0 = chosen so that saving takes under 5 % of the time, and at least
    # a minute
    save_every: CountOrZero = 100
    # newest checkpoints kept
    keep: Count = 2
    # report what takes this many times as long as usual, at least 10 s; 0 = off
    watchdog: NotNegative = 10.0

    @property
    def rows(self) -> int:
        """Sequences of one forward pass, over the whole mesh."""
        return self.micro_batch or self.batch

    @property
    def eval_rows(self) -> int:
        """Held-out sequences of one evaluation, however they are cut."""
        return self.eval_batches * self.batch


@dataclass(frozen=True)
class ExtendConfig:
    """A longer context for the model of config.init, by YaRN (V3 section 4.3)."""

    # positions that the model has from now on; 0 = those that it has
    context: CountOrZero = 0
    # by how much its slow rotary pairs are stretched; 0 = by rope.factor of the model
    factor: NotNegative = 0.0
    # positions of its first training; 0 = rope.original_context of the model
    original_context: CountOrZero = 0


# The kinds of post-training, by the name of their field in Config.
POST_KINDS = ("sft", "dpo", "distill", "grpo")


@dataclass(frozen=True)
class Config:
    """A run: pre-training, or the one kind of post-training whose settings are not None."""

    # the transformer
    model: ModelConfig = field(default_factory=ModelConfig)
    # what it reads
    data: DataConfig = field(default_factory=DataConfig)
    # how its weights move
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # how many devices split what
    mesh: MeshConfig = field(default_factory=MeshConfig)
    # which implementations run
    kernel: KernelConfig = field(default_factory=KernelConfig)
    # the loop
    train: TrainConfig = field(default_factory=TrainConfig)
    # adapters instead of all weights
    lora: LoraConfig = field(default_factory=LoraConfig)
    # a longer context for a model that is trained already
    extend: ExtendConfig = field(default_factory=ExtendConfig)

    # What follows pre-training: at most one of these

    # supervised fine-tuning
    sft: SftConfig | None = None
    # direct preference optimisation
    dpo: DpoConfig | None = None
    # distillation from a teacher's probabilities
    distill: DistillConfig | None = None
    # reinforcement on verifiable answers
    grpo: GrpoConfig | None = None

    # of the run in lists of runs; "" = the name of the config that it began with
    name: str = ""
    # run folder; default runs/CONFIG
    out: Path | None = None
    # weights to start from, a run or a published folder; its model and tokenizer replace those of
    # the config
    init: Path | None = None
    # also write TensorBoard events (extra [tensorboard])
    tensorboard: bool = False
    # also log to this Weights & Biases project (extra [wandb])
    wandb: str = ""
    # steps to trace once the run is warm (jax.profiler), with a table of where their time went; 0 =
    # none; never saved with a run
    profile: CountOrZero = 0
    # import the module:name choices that a folder's config.json names; never saved with a run
    trust: bool = False

    @property
    def kind(self) -> str:
        """Return "sft", "dpo", "distill" or "grpo", and "" for pre-training."""
        for kind in POST_KINDS:
            if getattr(self, kind) is not None:
                return kind
        return ""
