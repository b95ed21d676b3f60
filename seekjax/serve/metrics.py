"""/metrics: the engine's counters and the meter's, as Prometheus reads them."""

from collections.abc import Iterable

from seekjax.generate.engine.settings import EngineStatistics
from seekjax.serve.meter import BOUNDS, Histogram, Meter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[str, float]  # labels as text, "" for none; value


def metrics_text(engine: EngineStatistics, meter: Meter) -> str:
    """Return everything that is measured, in Prometheus' text format."""
    lines: list[str] = []

    def add(
        name: str,
        kind: str,
        about: str,
        samples: Iterable[Sample],
    ) -> None:
        full = f"seekjax_{name}"
        lines.append(f"# HELP {full} {about}")
        lines.append(f"# TYPE {full} {kind}")
        for labels, value in samples:
            lines.append(f"{full}{labels} {value:.10g}")

    def one(
        name: str,
        kind: str,
        about: str,
        value: float,
    ) -> None:
        add(name, kind, about, [("", value)])

    one("requests_queued", "gauge", "Requests that wait.", engine.queued)
    one("requests_running", "gauge", "Requests in the batch.", engine.running)
    pages = {
        "free": engine.pages_free,
        "evictable": engine.pages_evictable,
        "held": engine.pages_held,
    }
    add("pages", "gauge", "Pages of the cache by state.", _labelled("state", pages))
    one("preemptions_total", "counter", "Requests that lost their pages.", engine.preemptions)

    one("prefix_queries_total", "counter", "Prompt tokens looked up.", engine.prefix_queries)
    one("prefix_hits_total", "counter", "Prompt tokens that were cached.", engine.prefix_hits)
    one("prompt_tokens_total", "counter", "Tokens of prompts.", engine.prompt_tokens)
    one("generated_tokens_total", "counter", "Tokens generated.", engine.generated_tokens)
    one("drafted_tokens_total", "counter", "Drafts that were checked.", engine.drafted)
    one("accepted_tokens_total", "counter", "Drafts that were accepted.", engine.accepted)

    speed = meter.tokens.per_second()
    one("tokens_per_second", "gauge", "Tokens generated, over 30 seconds.", speed)
    finished = _labelled("reason", meter.finished)
    add("requests_finished_total", "counter", "Requests by how they ended.", finished)
    responses = []
    for (path, status), count in meter.responses.items():
        responses.append((f'{{path="{path}",status="{status}"}}', count))
    add("responses_total", "counter", "Responses by path and status.", responses)
    lines += _histogram("time_to_first_token_seconds", "Until the first token.", meter.first_token)
    lines += _histogram("request_seconds", "Until the last token.", meter.whole)

    load = []
    for layer, row in enumerate(engine.load):
        for expert, count in enumerate(row):
            load.append((f'{{layer="{layer}",expert="{expert}"}}', float(count)))
    add("expert_tokens_total", "counter", "Tokens that visited each expert.", load)
    return "\n".join(lines) + "\n"


def _labelled(label: str, values: dict[str, int]) -> list[Sample]:
    return [(f'{{{label}="{key}"}}', value) for key, value in values.items()]


def _histogram(
    name: str,
    about: str,
    histogram: Histogram,
) -> list[str]:
    """Return a histogram, whose buckets count everything up to their ends."""
    full = f"seekjax_{name}"
    lines = [f"# HELP {full} {about}", f"# TYPE {full} histogram"]
    count = 0
    for end, in_bucket in zip((*BOUNDS, "+Inf"), histogram.counts):
        count += in_bucket
        lines.append(f'{full}_bucket{{le="{end}"}} {count}')
    return [*lines, f"{full}_sum {histogram.sum:.10g}", f"{full}_count {count}"]
