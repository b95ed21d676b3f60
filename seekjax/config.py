"""Every setting of a run, as frozen dataclasses: one comment per field with its unit and where the
paper defines it.

DeepSeek's own names stand in brackets. `Vn` is the paper of DeepSeek-Vn (V2: 2405.04434, V3:
2412.19437). Validation is in `seekjax/validate.py`; one file per run is in `configs/`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sharding.mesh import MeshConfig


@dataclass(frozen=True)
class Schedule:
    """A multiplier over the run, piecewise in the share of training tokens seen (0 to 1)."""

    until: tuple[float, ...] = (1.0,)  # where each piece ends, as a share of all training tokens
    scale: tuple[float, ...] = (1.0,)  # the multiplier at the end of each piece
    shape: tuple[Literal["constant", "cosine", "linear"], ...] = (
        "constant",
    )  # constant at scale, or a path to it from the piece before


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions and their YaRN extension (V2 section 2.1.3 and 3.1.4, V3 section 4.3)."""

    base: float = 10000.0  # [rope_theta]
    factor: float = 1.0  # [factor] YaRN's s; used only where model.context exceeds original_context
    original_context: int = (
        4096  # [original_max_position_embeddings] positions seen before extension
    )
    beta_fast: float = 32.0  # rotations over the original context above which a frequency stays
    beta_slow: float = 1.0  # rotations below which a frequency is divided by the factor
    mscale: float = 1.0  # [mscale] attention temperature, over mscale_all in cos and sin
    mscale_all: float = (
        1.0  # [mscale_all_dim] attention temperature, squared into the softmax scale
    )


@dataclass(frozen=True)
class ModelConfig:
    """The transformer. Every difference between published models is one of these fields."""

    vocab: int = 2048  # [vocab_size] rows of the embedding and of the head
    embed: int = 128  # [hidden_size] model width
    layers: int = 4  # [num_hidden_layers]
    dense_layers: int = (
        1  # [first_k_dense_replace] first layers with a dense FFN instead of experts
    )
    # [max_seq_len] positions it must serve; YaRN is on when this exceeds rope.original_context
    context: int = 4096
    # attention (V2 section 2.1)
    attention: Literal["mla", "mha"] = "mla"  # mha: the DeepSeekMoE-16B baseline without latents
    heads: int = 4  # [num_attention_heads]
    q_latent: int = 64  # [q_lora_rank] 0 = queries straight from the model width, as in V2-Lite
    kv_latent: int = 32  # [kv_lora_rank] what the cache keeps per token, beside one rotary key
    nope: int = 32  # [qk_nope_head_dim] head width without position
    rotary: int = 16  # [qk_rope_head_dim] head width with decoupled, interleaved RoPE
    value: int = 32  # [v_head_dim]
    rope: RopeConfig = field(default_factory=RopeConfig)
    # feed-forward and experts (V2 section 2.2, V3 section 2.1.2)
    hidden: int = 512  # [intermediate_size] width of the dense FFN
    expert_hidden: int = 128  # [moe_intermediate_size] width of one expert
    experts: int = 16  # [n_routed_experts]
    shared_experts: int = 1  # [n_shared_experts] experts every token visits, fused into one FFN
    experts_per_token: int = 4  # [num_experts_per_tok]
    expert_groups: int = 4  # [n_group] 1 = ungrouped routing
    groups_per_token: int = 2  # [topk_group] groups a token may choose from
    scoring: Literal["sigmoid", "softmax"] = (
        "sigmoid"  # [scoring_func] affinity of a token to each expert
    )
    group_score: Literal["top2", "max"] = (
        "top2"  # [topk_method] top2: noaux_tc (V3); max: group_limited_greedy (V2)
    )
    renormalise: bool = True  # [norm_topk_prob] gates of a token sum to route_scale
    route_scale: float = 2.5  # [routed_scaling_factor]
    # multi-token prediction (V3 section 2.2)
    mtp_depth: int = 1  # [num_nextn_predict_layers] extra tokens predicted ahead; 0 = none
    norm_eps: float = 1e-6  # [rms_norm_eps]
    init_std: float = 0.006  # the papers' 0.006, not the 0.02 of the published config.json


@dataclass(frozen=True)
class DataConfig:
    """What the model reads."""

    sources: tuple[str, ...] = (
        "stdlib",
    )  # stdlib, arithmetic, stories, or paths of .txt .jsonl .parquet .arrayrecord files or folders
    weights: tuple[
        float, ...
    ] = ()  # share of documents drawn from each source; empty = by equal shares
    # bpe: byte-level, trained on the corpus and cached; byte: 256 bytes; or the path of a
    # tokenizer.json
    tokenizer: str = "bpe"
    sequence: int = 256  # tokens per training sequence
    packing: Literal["split", "fit"] = (
        "split"  # split: concatenate and cut (V3 pre-training); fit: whole documents, first fit
    )
    # true: no attention and no loss across documents (V3 SFT; V3 pre-training has it off)
    mask_documents: bool = False
    fim_rate: float = (
        0.0  # share of documents turned into prefix-suffix-middle form (V3 section 4.1: 0.1)
    )
    text_field: str = "text"  # column or key that holds the text in .jsonl and .parquet
    held_out: float = 0.05  # share of documents, by hash, kept out of training
    workers: int = 0  # Grain worker processes; 0 = in this process


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, and how the rate moves (V3 section 4.2)."""

    name: Literal["adamw", "muon"] = (
        "adamw"  # muon: matrices by Muon, embedding, head and norms by AdamW
    )
    learning_rate: float = 3e-3  # peak
    warmup: int = 20  # steps of linear warm-up
    schedule: Schedule = Schedule(
        (0.3, 1.0), (1.0, 0.1), ("constant", "cosine")
    )  # of the learning rate, after warm-up
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # on weights with a fan-in; never on norm scales
    clip: float = 1.0  # global norm of the gradient


@dataclass(frozen=True)
class KernelConfig:
    """Which of several equal implementations runs; auto asks the platform. Every choice is tested
    against the plain one."""

    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of activations and matrix products; weights, router and loss stay float32
    )
    weights: Literal["float32", "int8", "int4", "fp8"] = (
        "float32"  # as stored; the others by `seekjax quantize`, for use alone (seekjax/quant)
    )
    cache: Literal["same", "bfloat16", "fp8"] = (
        # of latents while decoding; same: as dtype; fp8: E4M3 with float32 scales, rotary in
        # bfloat16
        "same"
    )
    attention: Literal["auto", "plain", "block", "splash", "dot"] = "auto"
    experts: Literal["auto", "loop", "block", "ragged"] = (
        "auto"  # matrix products over rows sorted by expert
    )
    dispatch: Literal["auto", "dense", "static", "ragged", "few"] = (
        "auto"  # how tokens reach their experts (sharding/exchange.py); few: decoding
    )
    # rows a device may send each expert shard, in balanced shares; the rest is dropped. 0 =
    # dropless
    capacity: float = 0.0
    remat: Literal["none", "product", "latent", "full"] = (
        "latent"  # kept for the backward pass: all, matrix products, narrow latents, nothing
    )
    vocab_chunk: int = (
        8192  # words of the vocabulary whose logits the loss holds at a time, for some rows
    )


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 400  # optimizer steps in the whole run
    batch: int = 32  # sequences per optimizer step, over the whole mesh
    # sequences per forward pass, over the whole mesh; 0 = batch. The rest is gradient accumulation
    micro_batch: int = 0
    batch_start: int = (
        0  # sequences per step at the start, growing to batch; 0 = batch from the start
    )
    batch_ramp: float = 0.0  # share of the training tokens over which it grows (V3: 469B of 14.8T)
    seed: int = 0
    # balance without an auxiliary loss (V3 section 2.1.2)
    balance_rate: float = 0.001  # gamma: how far the routing bias moves per step
    balance_schedule: Schedule = Schedule()  # of gamma; V3: 0 for the last 500B tokens
    balance_loss: float = 1e-4  # alpha of the sequence-wise balance loss (V3 equations 17-20)
    mtp_weight: float = 0.3  # lambda of the multi-token prediction loss (V3 equation 25)
    mtp_schedule: Schedule = Schedule(
        (10 / 14.8, 1.0), (1.0, 1 / 3), ("constant", "constant")
    )  # of lambda; V3: 0.3 for 10T tokens, then 0.1
    ema: float = 0.0  # decay of an exponential moving average of the weights; 0 = none
    # rhythm, in steps
    log_every: int = 10
    eval_every: int = 100
    eval_batches: int = 8  # held-out batches per evaluation
    save_every: int = 100
    keep: int = 2  # newest checkpoints kept


@dataclass(frozen=True)
class GrpoConfig:
    """Reinforcement on verifiable answers by groups of samples (GRPO: 2402.03300, R1: 2501.12948,
    V3.2: 2512.02556).

    train.batch counts samples per optimizer step: a rollout of prompts x group samples makes
    prompts x group / batch of them, `epochs` times over. data.sequence holds a prompt and max_new
    tokens.
    """

    tasks: tuple[str, ...] = ("countdown",)  # of seekjax/tasks, as NAME (all levels) or NAME:LEVEL
    rewards: tuple[tuple[str, float], ...] = (
        ("accuracy", 1.0),
        ("format", 0.1),
    )  # of seekjax/post/rollout/reward.py or module:function, with weights
    language: Literal["en", "zh"] = "en"  # of the question's thoughts, for the reward "language"
    template: Literal["auto", "v2", "v3", "r1"] = (
        "auto"  # of the chat; auto: the checkpoint's own, else v3
    )
    prompts: int = 16  # problems per rollout
    group: int = 8  # [G] samples of each
    max_new: int = 64  # tokens a sample may have
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    epochs: int = 1  # times that a rollout is learnt from [mu]
    recipe: Literal["grpo", "r1", "v3_2", "dr_grpo", "dapo", "gspo", "cispo"] = (
        "v3_2"  # seekjax/post/rl/recipes.py; the fields that follow replace parts
    )
    clip_low: float | None = None  # ratios below 1 - clip_low are cut
    clip_high: float | None = None  # ratios above 1 + clip_high are cut
    kl: float | None = None  # weight of the distance to the reference; 0 = no reference
    kl_form: Literal["k1", "k2", "k3", "unbiased"] | None = None
    mask_ratio: float | None = (
        # [delta] bad samples that the trainer finds so much less likely than the sampler are left
        # out; 0 = none
        None
    )
    truncate: float | None = (
        None  # cap of the importance weight between trainer and sampler; 0 = no correction
    )
    keep_routing: bool | None = None  # the trainer replays the sampler's expert choices
    keep_mask: bool | None = (
        None  # the trainer renormalises over the tokens that top_k and top_p let through
    )
    reference_every: int = (
        0  # rollouts after which the policy becomes the reference (R1: 400); 0 = never
    )
    resample: bool | None = (
        # replace groups whose samples all earn the same (DAPO: all right or all wrong) by others
        None
    )
    rounds: int = 4  # rollouts that may be drawn for that
    move_bias: bool = False  # let the balance bias move, as in pre-training
    preflight: bool = (
        True  # sample before the first step, and stop with a diagnosis when nothing can be learnt
    )
    eval_problems: int = 512  # held-out problems of an evaluation


@dataclass(frozen=True)
class LoraConfig:
    """Training small additions to the matrices instead of the weights themselves (2106.09685): w +
    alpha / rank a b, with b = 0 at first."""

    rank: int = 0  # [r] inner width of an addition; 0 = off, all weights learn
    alpha: float = 16.0
    experts: bool = (
        False  # also the matrices of routed experts; embedding, head, router and norms never
    )


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning on chats and on solved tasks; only what the assistant says is learnt
    (R1: 2501.12948, section 2.3)."""

    chats: tuple[
        str, ...
        # .jsonl files of {"messages": [{"role", "content"}, ...]}; the content of an answer may
        # hold
        # <think>...</think>
    ] = ()
    tasks: tuple[
        str, ...
    ] = ()  # of seekjax/tasks, as NAME (all levels) or NAME:LEVEL: endless solved problems
    # share of the tasks' problems answered by tries that are right by chance: what a base model has
    # read for R1-Zero to start from
    attempts: float = 0.0
    weights: tuple[
        float, ...
    ] = ()  # share of samples drawn from each of chats, then of tasks; empty = equal shares
    language: Literal["en", "zh", "mixed"] = (
        "en"  # of the tasks' thoughts; mixed: one or the other, problem by problem
    )
    template: Literal["auto", "v2", "v3", "r1"] = (
        "auto"  # of the chat; auto: the checkpoint's own, else v3
    )
    # leave out samples longer than data.sequence and say how many, instead of refusing them
    drop_long: bool = False
    # train only the fewest experts of each layer that have this share of the relevance to the
    # samples (ESFT: 2407.01906); 0 = off
    expert_share: float = 0.0
    expert_score: Literal["token", "gate"] = (
        "token"  # relevance: how often an expert is chosen, or how much it counts when chosen
    )


@dataclass(frozen=True)
class DpoConfig:
    """Direct preference optimisation (2305.18290). train.batch counts texts, two of each pair."""

    pairs: tuple[
        str, ...
        # .jsonl files of {"prompt": text or "messages": [...], "chosen": text, "rejected": text}
    ] = ()
    beta: float = (
        0.1  # how dearly the distance from the reference, the weights at the start, is paid for
    )
    template: Literal["auto", "v2", "v3", "r1"] = (
        "auto"  # of the chat; auto: the checkpoint's own, else v3
    )
    # leave out pairs longer than data.sequence and say how many, instead of refusing them
    drop_long: bool = False


@dataclass(frozen=True)
class DistillConfig:
    """Learning what a teacher thinks of every token: of given answers (1503.02531), or of the
    student's own (GKD: 2306.13649)."""

    teacher: Path | None = (
        # a run or a published folder with the same tokenizer; its width, depth and experts may be
        # others
        None
    )
    chats: tuple[str, ...] = ()  # .jsonl files of conversations, as for fine-tuning
    tasks: tuple[
        str, ...
        # of seekjax/tasks, as NAME (all levels) or NAME:LEVEL: solved problems, or with
        # on_policy
        # those to answer
    ] = ()
    weights: tuple[
        float, ...
    ] = ()  # share of samples drawn from each of chats, then of tasks; empty = equal shares
    language: Literal["en", "zh", "mixed"] = (
        "en"  # of the tasks' thoughts; mixed: one or the other, problem by problem
    )
    template: Literal["auto", "v2", "v3", "r1"] = (
        # of the chat; auto: the student's own, the teacher's for a student without --init, else v3
        "auto"
    )
    # leave out samples longer than data.sequence and say how many, instead of refusing them
    drop_long: bool = False
    divergence: Literal["auto", "forward", "reverse"] = (
        # forward: KL(teacher || student), reverse: KL(student || teacher); auto: reverse on_policy
        "auto"
    )
    temperature: float = (
        1.0  # [T] logits of both are divided by it, and the divergence multiplied by its square
    )
    # compare the teacher's likeliest tokens one by one and all others as one; 0 = the whole
    # vocabulary
    top_k: int = 0
    # share of the loss that is cross entropy on the tokens of the samples; the rest is divergence
    cross_entropy: float = 0.0
    save_logits: Path | None = (
        # folder for what the teacher says, with top_k: written once, and read by later runs instead
        # of the teacher
        None
    )
    # let the student answer problems of the tasks and learn from what the teacher thinks of its
    # answers
    on_policy: bool = False
    group: int = 4  # on_policy: answers to each problem; a step learns from train.batch answers
    max_new: int = 64  # on_policy: tokens an answer may have
    eval_problems: int = 512  # on_policy: held-out problems of an evaluation


@dataclass(frozen=True)
class Config:
    """A run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    kernel: KernelConfig = field(default_factory=KernelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    post: GrpoConfig | SftConfig | DpoConfig | DistillConfig | None = (
        None  # what follows pre-training; None = pre-training
    )
    out: Path | None = None  # run folder; default runs/<config>
    init: Path | None = (
        # weights to start from, a run or a published folder: its model and tokenizer replace those
        # of the config
        None
    )
    tensorboard: bool = False  # also write TensorBoard events (extra [tensorboard])
    wandb: str = ""  # also log to this Weights & Biases project (extra [wandb])
