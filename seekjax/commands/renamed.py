"""Options that had another name or form in earlier versions; old command lines keep working."""

from dataclasses import replace

from seekjax.config import Config, Objective
from seekjax.config.fields import switches
from seekjax.config.run import POST_KINDS
from seekjax.errors import UsageError

# An earlier name of an option, and the one it has now. --post.FIELD became --KIND.FIELD.
RENAMED = {
    "--distill.group": "--distill.sampling.group",
    "--distill.max-new": "--distill.sampling.max-new",
    "--distill.eval-problems": "--distill.sampling.eval-problems",
}
SWITCH = {"true": True, "false": False}
SCHEDULES = ("--optimizer.schedule", "--train.balance-schedule", "--train.mtp-schedule")


def current_options(options: list[str], config: Config, name: str) -> tuple[list[str], list[str]]:
    """Return the options of a training under the names they have now, and a notice of each change.

    `name` is the config's. Raises UsageError for an option of another kind of training than the
    config's, and for one that has another form now.
    """
    if config.grpo is not None and config.grpo.objective is None:
        config = replace(config, grpo=replace(config.grpo, objective=Objective()))
    flags = {option_of(path) for path in switches(config)}
    words: list[str] = []
    notices = []
    for word in options:
        option, equals, value = _split(word)
        current = _current_name(option, config, name) if option else ""
        if current != option:
            notices.append(f"{option} is now {current}.")
        words.append(f"{current}{equals}{value}")
    words, flag_notices = current_flags(words, flags)
    return words, notices + flag_notices


def current_flags(words: list[str], flags: set[str]) -> tuple[list[str], list[str]]:
    """Return the words with `--flag True` and `--flag False` as `--flag` and `--no-flag`.

    Also returns a notice of each change. `flags` are the options without a value.
    """
    current: list[str] = []
    notices = []
    for word in words:
        option, equals, value = _split(word)
        if not option and word.lower() in SWITCH and current and current[-1] in flags:
            option, value = current.pop(), word
        if option in flags and value.lower() in SWITCH:
            flag = option if SWITCH[value.lower()] else negated(option)
            notices.append(f"{option} {value} is now {flag}.")
            current.append(flag)
        elif option.startswith("--no-") and "--" + option.removeprefix("--no-") in flags:
            current.append(negated("--" + option.removeprefix("--no-")))
        else:
            current.append(f"{option}{equals}{value}")
    return current, notices


def negated(flag: str) -> str:
    """Return the option that turns a flag off: --grpo.no-preflight for --grpo.preflight."""
    part, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{part}{dot}no-{name}"


def _split(word: str) -> tuple[str, str, str]:
    """Return the option, "=" and value of a word; the option is "" if the word is a value."""
    if not word.startswith("--"):
        return "", "", word
    option, equals, value = word.partition("=")
    return option.replace("_", "-"), equals, value


def _current_name(option: str, config: Config, name: str) -> str:
    """Return the name that an option has now."""
    part, _, field = option.removeprefix("--").partition(".")

    for schedule in SCHEDULES:
        if option in (f"{schedule}.until", f"{schedule}.scale", f"{schedule}.shape"):
            raise UsageError(
                f"{option} is now part of {schedule}, which takes pieces UNTIL:TO[:SHAPE], as in "
                f"{schedule} 0.3:1 1:0.1:cosine."
            )

    if part == "post":
        if not config.kind:
            raise UsageError(
                f"{option} needs a config of post-training: {name} is pre-training. Name sft, dpo, "
                f"distill or grpo; the option is then --KIND.{field}, as in --sft.{field}."
            )
        option = f"--{config.kind}.{field}"
    elif part in POST_KINDS and part != config.kind:
        kind = f"of the kind {config.kind}" if config.kind else "pre-training"
        raise UsageError(f"{option} is an option of {part} runs, but {name} is {kind}.")
    return RENAMED.get(option, option)


def option_of(path: str) -> str:
    """Return the option of a field: --grpo.keep-mask for grpo.objective.keep_mask."""
    return "--" + path.replace("grpo.objective.", "grpo.").replace("_", "-")
