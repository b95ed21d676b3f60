"""Named objectives of GRPO, each as its paper has it.

A number that a paper leaves open is marked as open below, and the value is then ours. All recipes
maximise, over groups of G completions o_i of a prompt with rewards r_i, an average of a surrogate
of the ratio w_it = pi / pi_old (o_it) and the advantage A_i, less beta KL(pi || pi_ref). Here
k3 = ref / pi - log(ref / pi) - 1, and clip(w) keeps w in [1 - low, 1 + high]. Most papers write
their averages per group; like all trainers we take them over the whole minibatch, which for
average="token" is not quite the same.

grpo     DeepSeekMath (2402.03300, equation 3 and section 4.2).

             1/G sum_i 1/|o_i| sum_t [min(w_it A_i, clip(w_it) A_i) - beta k3_it]

         A_i = (r_i - mean r) / std r, beta 0.04. The clip is open: 0.2, PPO's.

r1       DeepSeek-R1 (2501.12948 and Nature, training details of the first RL stage). As grpo, with
         clip 10 (ratios up to 11, without a lower bound) and beta 0.001. R1 writes the ratio of
         whole outputs, unnormalised; per token here, as in DeepSeekMath. R1-Zero's clip is open.

v3_2     DeepSeek-V3.2 (2512.02556, section 3.1), the default.

             1/G sum_i 1/|o_i| sum_t [min(w_it A_i, clip(w_it) A_i) M_i - beta w_it k3_it]

         A_i = r_i - mean r. M_i = 0 if A_i < 0 and 1/|o_i| sum_t log(pi_sampler / pi) > delta,
         else 1. The sampler's routing and sampling mask are replayed. Clip, beta and delta are
         open: 0.2, R1's 0.001 (the paper: weak or none for mathematics), and 0.5 nats a token.

dr_grpo  "Understanding R1-Zero-like training" (2503.20783, section 3.2).

             1/G sum_i 1/L sum_t min(w_it A_i, clip(w_it) A_i)

         A_i = r_i - mean r, without KL. L is a constant: the paper's equation has none, its listing
         divides by the generation budget. Clip 0.2, as in its code.

dapo     DAPO (2503.14476, equation 8 and section 4.1).

             1/sum_i |o_i| sum_i sum_t min(w_it A_i, clip(w_it) A_i)

         Clip 0.2 below and 0.28 above, A_i as in grpo, without KL. Groups all right or all wrong
         are replaced, and the last fifth of the length is penalised (4,096 of 20,480 tokens).

gspo     GSPO (2507.18071, equations 5 to 7 and section 5.1).

             1/G sum_i min(s_i A_i, clip(s_i) A_i),  s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|)

         Clip 3e-4 below and 4e-4 above, A_i as in grpo. The KL is left out of the equation "for
         brevity": 0 here.

cispo    MiniMax-M1 (2506.13585, equations 4 and 5).

             1/sum_i |o_i| sum_i sum_t stop_gradient(clip(w_it)) A_i log pi

         A_i as in grpo, without KL or a lower bound, with DAPO's resampling and length penalty. The
         upper bound is open: weights up to 5, as ScaleRL (2510.13786).
"""

from dataclasses import replace

from seekjax.config.post import GrpoConfig, Objective
from seekjax.errors import ConfigError
from seekjax.registry import Registry

# What all recipes but DeepSeek-V3.2's share: the objective of DeepSeekMath, without a divergence.
_BASE = Objective(
    advantage="standardised",
    kl=0.0,
    kl_form="k3",
    mask_ratio=0.0,
    keep_routing=False,
    keep_mask=False,
)
_DAPO = replace(_BASE, clip_high=0.28, average="token", resample=True, overlong=0.2)

RECIPES: Registry[Objective] = Registry(
    "recipe",
    {
        "grpo": replace(_BASE, kl=0.04),
        "r1": replace(_BASE, clip_low=10.0, clip_high=10.0, kl=0.001),
        "v3_2": Objective(),
        "dr_grpo": replace(_BASE, advantage="centred", average="constant"),
        "dapo": _DAPO,
        "gspo": replace(_BASE, ratio="sequence", clip_low=3e-4, clip_high=4e-4),
        "cispo": replace(_DAPO, surrogate="cispo", clip_low=1.0, clip_high=4.0),
    },
)


def objective_of(grpo: GrpoConfig) -> Objective:
    """Return the objective that the config sets, or that of its recipe.

    Raises ConfigError for an unknown recipe.
    """
    return grpo.objective or find_recipe(grpo.recipe)


def find_recipe(name: str) -> Objective:
    """Return the objective of this name, or the `Objective` that `module:name` names."""
    objective = RECIPES.find(name)
    if not isinstance(objective, Objective):
        raise ConfigError(
            f"the recipe {name} is of type {type(objective).__name__}: it must be an Objective "
            "(seekjax/config/post.py)."
        )
    return objective
