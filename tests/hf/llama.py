"""What llama.cpp's deepseek2 graph computes from a GGUF file, in NumPy and from the file alone: an
oracle for the names, shapes and conventions.

Written from the facts of llama.cpp's src/models/deepseek2.cpp, llama-graph.cpp (build_moe_ffn) and
llama-context.cpp (YaRN), late 2025.
"""

import gguf
import numpy as np


class Llama:
    """A file's keys and dequantised tensors, and the logits of a text."""

    def __init__(self, path):
        read = gguf.GGUFReader(path)
        self.key = {name: field.contents() for name, field in read.fields.items()}
        self.kind = {tensor.name: tensor.tensor_type.name for tensor in read.tensors}
        self.tensor = {
            t.name: gguf.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]).astype(np.float64)
            for t in read.tensors
        }
        self.bytes = {tensor.name: int(tensor.n_bytes) for tensor in read.tensors}

    def get(self, name, default=None):
        return self.key.get(f"deepseek2.{name}", default)

    def norm(self, x, name):
        return (
            x
            / np.sqrt(
                (x * x).mean(-1, keepdims=True) + self.get("attention.layer_norm_rms_epsilon")
            )
            * self.tensor[f"{name}.weight"]
        )

    def swiglu(self, x, at, suffix=""):
        gate, up, down = (
            self.tensor[f"{at}.ffn_{part}{suffix}.weight"] for part in ("gate", "up", "down")
        )
        g = x @ gate.T
        return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T

    def rope(self, x, positions):
        """Interleaved pairs; ggml's own gain with YaRN is cancelled by llama.cpp where both mscales
        are one."""
        width, base, factor = (
            x.shape[-1],
            self.get("rope.freq_base"),
            self.get("rope.scaling.factor", 1.0),
        )
        frequency = base ** (-np.arange(0, width, 2) / width)
        if self.get("rope.scaling.type") == "yarn":

            def pair(rotations):
                return (
                    width
                    * np.log(
                        self.get("rope.scaling.original_context_length") / (rotations * 2 * np.pi)
                    )
                    / (2 * np.log(base))
                )

            low = max(0, np.floor(pair(self.get("rope.scaling.yarn_beta_fast"))))
            high = min(width - 1, np.ceil(pair(self.get("rope.scaling.yarn_beta_slow"))))
            keep = 1 - np.clip((np.arange(width // 2) - low) / max(0.001, high - low), 0, 1)
            frequency = frequency / factor * (1 - keep) + frequency * keep
        angle = positions[:, None] * frequency
        angle = angle.reshape(len(positions), *[1] * (x.ndim - 2), -1)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack(
            [
                even * np.cos(angle) - odd * np.sin(angle),
                even * np.sin(angle) + odd * np.cos(angle),
            ],
            -1,
        ).reshape(x.shape)

    def attention(self, x, at):
        T, H = len(x), self.get("attention.head_count")
        assert self.get("attention.head_count_kv") == 1
        head, rotary, latent = (
            self.get("attention.key_length_mla"),
            self.get("rope.dimension_count"),
            self.get("attention.kv_lora_rank"),
        )
        assert self.get("attention.key_length") == latent + rotary
        assert self.get("attention.value_length") == latent
        if self.get("attention.q_lora_rank"):
            q = (
                self.norm(x @ self.tensor[f"{at}.attn_q_a.weight"].T, f"{at}.attn_q_a_norm")
                @ self.tensor[f"{at}.attn_q_b.weight"].T
            )
        else:
            q = x @ self.tensor[f"{at}.attn_q.weight"].T
        q = q.reshape(T, H, head)
        c, k = np.split(x @ self.tensor[f"{at}.attn_kv_a_mqa.weight"].T, [latent], -1)
        c, positions = self.norm(c, f"{at}.attn_kv_a_norm"), np.arange(T)
        q_nope, q_rope = q[..., : head - rotary], self.rope(q[..., head - rotary :], positions)
        query = np.concatenate(
            [np.einsum("thn,hcn->thc", q_nope, self.tensor[f"{at}.attn_k_b.weight"]), q_rope], -1
        )
        key = np.concatenate([c, self.rope(k, positions)], -1)
        mscale = 1 + self.get("rope.scaling.yarn_log_multiplier", 0.0) * np.log(
            self.get("rope.scaling.factor", 1.0)
        )
        score = np.einsum("thx,sx->hts", query, key) * mscale**2 / np.sqrt(head)
        score = np.where(np.tril(np.ones((T, T), bool)), score, -np.inf)
        weight = np.exp(score - score.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        value = np.einsum("hts,sc,huc->thu", weight, c, self.tensor[f"{at}.attn_v_b.weight"])
        return value.reshape(T, -1) @ self.tensor[f"{at}.attn_output.weight"].T

    def mixture(self, x, at):
        logits = x @ self.tensor[f"{at}.ffn_gate_inp.weight"].T
        exp = np.exp(logits - logits.max(-1, keepdims=True))
        probs = {1: exp / exp.sum(-1, keepdims=True), 2: 1 / (1 + np.exp(-logits))}[
            self.get("expert_gating_func")
        ]
        choose = probs + self.tensor.get(f"{at}.exp_probs_b.bias", 0.0)
        groups = self.get("expert_group_count", 1)
        if groups > 1:
            best = np.sort(choose.reshape(len(x), groups, -1), -1)[..., -2:].sum(-1)
            closed = np.argsort(-best, -1)[:, self.get("expert_group_used_count") :]
            for row, out in enumerate(closed):
                choose.reshape(len(x), groups, -1)[row, out] = -np.inf
        chosen = np.argsort(-choose, -1)[:, : self.get("expert_used_count")]
        y = self.swiglu(x, at, "_shexp")
        for row, those in enumerate(chosen):
            weight = probs[row, those]
            weight = weight / weight.sum() if self.get("expert_weights_norm") else weight
            for expert, w in zip(those, weight * self.get("expert_weights_scale")):
                gate, up, down = (
                    self.tensor[f"{at}.ffn_{part}_exps.weight"][expert]
                    for part in ("gate", "up", "down")
                )
                g = gate @ x[row]
                y[row] += w * (down @ (g / (1 + np.exp(-g)) * (up @ x[row])))
        return y

    def logits(self, ids):
        x = self.tensor["token_embd.weight"][np.asarray(ids)]
        for layer in range(self.get("block_count")):
            at = f"blk.{layer}"
            x = x + self.attention(self.norm(x, f"{at}.attn_norm"), at)
            h = self.norm(x, f"{at}.ffn_norm")
            x = x + (
                self.swiglu(h, at)
                if layer < self.get("leading_dense_block_count")
                else self.mixture(h, at)
            )
        return self.norm(x, "output_norm") @ self.tensor["output.weight"].T
