"""Group relative policy optimisation: training on rollouts (DeepSeekMath, R1, V3.2).

seekjax/config/recipes.py has the formulas.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from seekjax.config import Config, GrpoConfig
from seekjax.config.recipes import objective_of
from seekjax.data import read_tokenizer
from seekjax.data.chat import load_trained_chat
from seekjax.errors import ConfigError, need
from seekjax.post.rl.objective import check_parts
from seekjax.post.rl.updates import RolloutUpdates
from seekjax.post.rollout.grader import GradedSample, Grader
from seekjax.post.rollout.log import closing_lines, held_out_figures, tasks_line
from seekjax.post.rollout.problems import TaskProblems
from seekjax.post.rollout.reward import make_reward
from seekjax.post.rollout.rollouts import Rollouts
from seekjax.post.rollout.sampler import Sampler
from seekjax.seeds import root_key
from seekjax.train.lora import make_spec
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.training import Parts
from sharding.rules import split_by


class Reinforcement:
    """The train.training.Training of `python train.py grpo`."""

    shared_position = True

    def __init__(self, config: Config):
        self.grpo, init = check(config)
        self.objective = objective_of(self.grpo)
        check_parts(self.objective)
        if not self.grpo.move_bias:
            config = replace(config, train=replace(config.train, balance_rate=0.0))
        self.config = config
        chat, self.tokenizer = load_trained_chat(
            init.expanduser(),
            config.out,
            read_tokenizer(Path(config.data.tokenizer), config.model.vocab),
            self.grpo.template,
            self.grpo.template_settings,
        )

        self.grader = Grader(
            chat,
            self.tokenizer,
            make_reward(
                self.grpo.rewards, self.grpo.language, self.grpo.max_new, self.objective.overlong
            ),
        )
        self.problems = TaskProblems(self.grpo.tasks, config.train.seed)

    def manifest(self) -> dict[str, Any]:
        """Return what exactly is read, for data.json."""
        return {
            "tasks": list(self.grpo.tasks),
            "init": str(self.config.init),
            "tokenizer": self.tokenizer.fingerprint(),
        }

    def build(self, folder: Path) -> Parts:
        """Compile on the mesh in use. Raises ConfigError if it does not divide the prompts."""
        config, grpo = self.config, self.grpo
        need(
            grpo.prompts % split_by("batch") == 0,
            f"grpo.prompts {grpo.prompts} must be a multiple of the {split_by('batch')} devices "
            "that share a batch.",
        )

        # The reference takes memory, so it is kept only if the objective needs it.
        frozen = ("reference",) if self.objective.kl else ()
        spec = make_spec(config, frozen)
        sampler = Sampler(config.model, config.kernel, grpo, config.data.sequence, self.tokenizer)
        rollouts = Rollouts(sampler, self.grader)
        updates = RolloutUpdates(spec, grpo, self.objective, rollouts, self.problems, folder)

        self.grader.chat.save(folder, jax.process_index() == 0)
        return Parts(
            spec=spec,
            source=updates,
            step=updates.step,
            evaluate=HeldOutAccuracy(spec, grpo, rollouts, self.problems),
            report=GrpoReport(config, grpo, self.grader, self.problems),
            gradient=updates.gradient,
        )


class HeldOutAccuracy:
    """Accuracy on distinct held-out problems, one sample each, drawn as in training."""

    def __init__(self, spec: RunSpec, grpo: GrpoConfig, rollouts: Rollouts, problems: TaskProblems):
        self.spec = spec
        self.grpo = grpo
        self.rollouts = rollouts
        self.problems = problems

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Return the held-out figures, and a sentence of them."""
        variables = self.spec.variables(state.replace(params=state.averaged))
        key = root_key(self.spec.config.train.seed)
        problems = self.problems.distinct_held_out(self.grpo.eval_problems)
        size = self.grpo.prompts * self.grpo.group
        graded: list[GradedSample] = []
        for first in range(0, len(problems), size):
            chunk = problems[first : first + size]
            chunk_key = jax.random.fold_in(key, first)
            _, samples = self.rollouts.draw(variables, chunk, 1, chunk_key, size=size)
            graded += samples
        return held_out_figures(graded)


class GrpoReport:
    """The words of a run of reinforcement."""

    def __init__(self, config: Config, grpo: GrpoConfig, grader: Grader, problems: TaskProblems):
        self.config = config
        self.grpo = grpo
        self.grader = grader
        self.problems = problems

    def header(self) -> list[str]:
        """Return the lines that state what will be read and trained."""
        grpo = self.grpo
        rewards = [f"{weight:g} {name}" for name, weight in self.grader.reward.weights.items()]
        return [
            f"tasks: {tasks_line(grpo.tasks, self.problems, grpo.eval_problems)}; rewards: "
            f"{', '.join(rewards)}; {self.grader.tokenizer.size} token ids",
            f"recipe: {grpo.recipe}; {grpo.prompts} prompts x {grpo.group} samples of up to "
            f"{grpo.max_new} tokens a rollout, from {self.config.init}",
        ]

    def extra_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return nothing: the metrics are complete."""
        return {}

    def progress(self, record: dict[str, Any]) -> str:
        """Return what the progress line shows of a step."""
        line = (
            f"reward {record['reward']:.2f}  right {record['accuracy']:.1%}  form "
            f"{record['parsed']:.0%}  signal {record['signal']:.0%}  length "
            f"{record['length']:.0f}  entropy {record['entropy']:.1f}"
        )
        if "kl" in record:
            line += f"  kl {record['kl']:.3f}"
        if record.get("failed"):
            line += f"  {record['failed']:.0f} REWARDS FAILED"
        return line

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """Return the closing lines of a run; draws its plots into the folder."""
        return closing_lines(int(state.step), folder, self.grpo.tasks)


def check(config: Config) -> tuple[GrpoConfig, Path]:
    """Return the settings and the initial model.

    Raises ConfigError for settings that do not fit each other.
    """
    grpo, train, init = config.grpo, config.train, config.init
    if grpo is None:
        raise ConfigError("reinforcement needs settings: grpo is None.")
    if init is None:
        raise ConfigError("reinforcement starts from a model: name its folder with --init.")

    need(
        grpo.group > 1,
        "grpo.group is 1: a sample is compared with others of its group, make it at least 2.",
    )
    need(
        grpo.temperature > 0,
        f"grpo.temperature is {grpo.temperature}: greedy samples are all equal, make it positive.",
    )

    # Sizes of rollouts and updates
    rows = grpo.prompts * grpo.group
    need(
        rows % train.batch == 0,
        f"a rollout has grpo.prompts {grpo.prompts} x grpo.group {grpo.group} = {rows} samples: "
        f"make train.batch {train.batch} divide them.",
    )
    updates = rows // train.batch * grpo.epochs
    need(
        train.steps % updates == 0,
        f"train.steps {train.steps} must be a multiple of the {updates} steps of one rollout.",
    )
    need(not train.batch_start, "train.batch_start is for pre-training: a rollout has one size.")
    need(
        grpo.max_new < config.data.sequence,
        f"data.sequence {config.data.sequence} must hold a prompt and grpo.max_new "
        f"{grpo.max_new} tokens.",
    )

    # What would make the trainer differ from the sampler, or move the reference
    need(
        not config.kernel.capacity,
        f"kernel.capacity is {config.kernel.capacity}: the sampler drops no tokens, so a trainer "
        "that does would differ from it; make it 0.",
    )
    kl = objective_of(grpo).kl
    need(
        not (kl and grpo.move_bias),
        f"the objective's kl is {kl} and grpo.move_bias True: the reference would move with the "
        "balance bias, set one of them to 0 or False.",
    )
    return grpo, init
