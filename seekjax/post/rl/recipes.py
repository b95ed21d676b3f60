"""Named objectives, each as its paper has it. A number that a paper leaves open is said to be open,
and is ours.

All maximise, over groups of G completions o_i of a prompt with rewards r_i, an average of a
surrogate of the ratio w_it = pi / pi_old (o_it) and the advantage A_i, less beta KL(pi || pi_ref).
k3 = ref/pi - log ref/pi - 1; clip(w) keeps w in [1 - low, 1 + high]. Averages per group, as most
papers write them, are taken over the whole minibatch, as all trainers do; for "token" that is not
quite the same.

grpo     DeepSeekMath (2402.03300, equation 3 and section 4.2). 1/G sum_i 1/|o_i| sum_t [min(w_it
A_i, clip(w_it) A_i) - beta k3_it],
         A_i = (r_i - mean r) / std r, beta 0.04. The clip is open: 0.2, PPO's.
r1       DeepSeek-R1 (2501.12948 and Nature, training details of the first RL stage): the same with
clip 10 (ratios up to 11, no lower bound) and
         beta 0.001. R1 writes the ratio of whole outputs, unnormalised; per token here, as in DeepSeekMath. R1-Zero's clip is open.
v3_2     DeepSeek-V3.2 (2512.02556, section 3.1), the default. 1/G sum_i 1/|o_i| sum_t [min(w_it
A_i, clip(w_it) A_i) M_i - beta w_it k3_it],
         A_i = r_i - mean r; M_i = 0 where A_i < 0 and 1/|o_i| sum_t log(pi_sampler / pi) > delta, else 1; the sampler's routing and sampling
         mask replayed. Clip, beta and delta are open: 0.2, R1's 0.001 (the paper: weak or none for mathematics), and 0.5 nats a token.
dr_grpo  "Understanding R1-Zero-like training" (2503.20783, section 3.2). 1/G sum_i 1/L sum_t
min(w_it A_i, clip(w_it) A_i), A_i = r_i - mean r,
         no KL. L is a constant: the paper's equation has none, its listing divides by the generation budget. Clip 0.2, as in its code.
dapo     DAPO (2503.14476, equation 8 and section 4.1). 1/sum_i |o_i| sum_i sum_t min(w_it A_i,
clip(w_it) A_i), clip 0.2 below and 0.28 above,
         A_i as in grpo, no KL, groups all right or all wrong replaced, and the last fifth of the length penalised (4,096 of 20,480 tokens).
gspo     GSPO (2507.18071, equations 5 to 7 and section 5.1). 1/G sum_i min(s_i A_i, clip(s_i) A_i),
s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|),
         clip 3e-4 below and 4e-4 above, A_i as in grpo. The KL is left out of the equation "for brevity": 0 here.
cispo    MiniMax-M1 (2506.13585, equations 4 and 5). 1/sum_i |o_i| sum_i sum_t
stop_gradient(clip(w_it)) A_i log pi, A_i as in grpo, no KL, no
         lower bound, DAPO's resampling and length penalty. The upper bound is open: weights up to 5, as ScaleRL (2510.13786).
"""

from seekjax.config import Objective

GRPO = {
    "advantage": "standardised",
    "kl_form": "k3",
    "mask_ratio": 0.0,
    "keep_routing": False,
    "keep_mask": False,
}

RECIPES: dict[str, Objective] = {
    "grpo": Objective(**GRPO, kl=0.04),
    "r1": Objective(**GRPO, clip_low=10.0, clip_high=10.0, kl=0.001),
    "v3_2": Objective(),
    "dr_grpo": Objective(**GRPO | {"advantage": "centred"}, kl=0.0, average="constant"),
    "dapo": Objective(**GRPO, clip_high=0.28, kl=0.0, average="token", resample=True, overlong=0.2),
    "gspo": Objective(**GRPO, ratio="sequence", clip_low=3e-4, clip_high=4e-4, kl=0.0),
    "cispo": Objective(
        **GRPO,
        surrogate="cispo",
        clip_low=1.0,
        clip_high=4.0,
        kl=0.0,
        average="token",
        resample=True,
        overlong=0.2,
    ),
}
