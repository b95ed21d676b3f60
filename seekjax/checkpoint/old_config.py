"""config.json of earlier versions of seekjax, brought to the form it has now."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from seekjax.config.recipes import find_recipe

Json = dict[str, Any]

# A field that only one kind of post-training had, for the time when all were called "post".
_TELLING_FIELD = {"pairs": "dpo", "teacher": "distill", "prompts": "grpo", "chats": "sft"}
_SCHEDULES = (
    ("optimizer", "schedule"),
    ("train", "balance_schedule"),
    ("train", "mtp_schedule"),
)
_SAMPLING = ("group", "max_new", "eval_problems")
_OBJECTIVE = (
    "clip_low",
    "clip_high",
    "kl",
    "kl_form",
    "mask_ratio",
    "truncate",
    "keep_routing",
    "keep_mask",
    "resample",
)


def in_current_form(config: Json) -> Json:
    """Return a config.json of any version with the fields it would have today.

    Raises ValueError if it is not an object of JSON, or if what an earlier version wrote has
    another form than it had there.
    """
    if not isinstance(config, dict):
        raise ValueError(f"it holds {type(config).__name__}, not an object with fields.")
    for translate in TRANSLATIONS:
        try:
            config = translate(dict(config))
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError("its parts are not objects with the fields of a config.") from error
    return config


def _kind_instead_of_post(config: Json) -> Json:
    """{"post": {...}} became {"sft": {...}}, and likewise for the other kinds."""
    post = config.pop("post", None)
    if post is None:
        return config
    for field, kind in _TELLING_FIELD.items():
        if field in post:
            return config | {kind: post}
    raise ValueError('its "post" belongs to no kind of post-training of this version.')


def _pieces_instead_of_columns(config: Json) -> Json:
    """{"until": [1.0], "scale": [0.1], "shape": ["cosine"]} became a list of pieces."""
    for part, name in _SCHEDULES:
        schedule = config.get(part, {}).get(name)
        if isinstance(schedule, dict):
            columns = (schedule["until"], schedule["scale"], schedule["shape"])
            pieces = [
                {"until": until, "to": to, "shape": shape} for until, to, shape in zip(*columns)
            ]
            config[part] = config[part] | {name: pieces}
    return config


def _sampling_of_distillation(config: Json) -> Json:
    """Move the settings of the student's answers to distill.sampling."""
    distill = dict(config.get("distill") or {})
    sampling = {name: distill.pop(name) for name in _SAMPLING if name in distill}
    if sampling:
        config["distill"] = distill | {"sampling": sampling}
    return config


def _objective_of_grpo(config: Json) -> Json:
    """Replace what differs from the recipe by a whole objective; null meant the recipe's own."""
    grpo = dict(config.get("grpo") or {})
    flat = {name: grpo.pop(name) for name in _OBJECTIVE if name in grpo}
    changed = {name: value for name, value in flat.items() if value is not None}
    if flat:
        config["grpo"] = grpo
    if changed:
        recipe = asdict(find_recipe(grpo["recipe"]))
        config["grpo"] = grpo | {"objective": recipe | changed}
    return config


# In the order in which the fields changed.
TRANSLATIONS: tuple[Callable[[Json], Json], ...] = (
    _kind_instead_of_post,
    _pieces_instead_of_columns,
    _sampling_of_distillation,
    _objective_of_grpo,
)
