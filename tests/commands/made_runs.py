"""Run folders with a config and a record of figures, without a training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from seekjax.checkpoint.config_json import to_json
from seekjax.config import Config, TrainConfig


def write_run(
    folder: Path, config: Config, losses: list[float], every: int = 10, **held_out: float
) -> Path:
    """Write a run that reported these losses, the last with these held-out figures beside it."""
    folder.mkdir(parents=True)
    config = replace(config, out=folder)
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    (folder / "data.json").write_text("{}")

    records: list[dict[str, Any]] = []
    for number, loss in enumerate(losses, 1):
        records.append({"step": number * every, "split": "train", "loss": loss})
    if held_out:
        records.append({"step": len(losses) * every, "split": "held_out", **held_out})
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def config_of(name: str = "", steps: int = 20, seed: int = 0, **parts: Any) -> Config:
    """Return a config with these settings."""
    return Config(name=name, train=TrainConfig(steps=steps, seed=seed), **parts)
