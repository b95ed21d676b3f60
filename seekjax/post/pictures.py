"""The pictures of any run, drawn from its metrics.jsonl alone."""

from pathlib import Path

from seekjax.post.plots import plot_distance, plot_preference, plot_rollouts
from seekjax.train.plots import draw
from seekjax.train.record import METRICS, read


def draw_pictures(folder: Path) -> list[Path]:
    """Write the pictures of a run's kind, which its figures show, and return their paths.

    Works while the run goes on and after it was stopped. Raises RunError if metrics.jsonl cannot be
    read.
    """
    metrics: set[str] = set()
    for record in read(folder):
        metrics.update(record)

    if "margin" in metrics:
        return [plot_preference(folder)]
    if "signal" in metrics:
        return plot_rollouts(folder)
    paths = [plot_distance(folder)] if "kl" in metrics else []
    if "accuracy" in metrics:  # of answers that the student drew
        return paths
    return [*paths, *draw(folder)]


def picture_line(folder: Path) -> list[str]:
    """Return the line that names the pictures of a run, which are drawn; [] without any."""
    if not (folder / METRICS).exists():
        return []
    paths = draw_pictures(folder)
    return [f"pictures: {', '.join(map(str, paths))}"] if paths else []
