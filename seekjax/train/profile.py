"""`--profile N`: a trace of N steps of a warm run, and where their time went."""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from jax.profiler import ProfileData, ProfileOptions

from seekjax.config import Config
from seekjax.terminal import columns
from seekjax.train.clock import Clock
from seekjax.train.state import TrainState
from seekjax.train.training import Batch, Metrics, Step

WARM = 3  # steps before the trace; the first compiles
TOP = 10  # operations in the table

# The rows of the tables, and the places of the clock that each has.
ROWS = {
    "data": ("data",),
    "step on the device": ("step", "device"),
    "report": ("report",),
    "evaluation": ("evaluation",),
    "save": ("save",),
}
# Operations that only hold others, whose time would count twice.
CONTAINERS = re.compile(r"(while|call|conditional|async-start|async-done)([.\d-]|$)")


class Profile:
    """Traces `steps` steps into a folder, after the first WARM of this start.

    Each traced step is awaited, so that its time is its own; the run computes the same.
    """

    def __init__(self, steps: int, folder: Path, clock: Clock, say: Callable[[str], None]):
        self.steps = steps
        self.folder = folder
        self.clock = clock
        self.say = say
        self.taken = 0  # steps of this start
        self.before: dict[str, float] | None = None  # seconds at each place, as the trace began

    def around(self, step: Step) -> Step:
        """Return a step that is traced when its turn comes."""
        if not self.steps:
            return step

        def traced(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            with jax.profiler.StepTraceAnnotation("train", step_num=self.taken):
                result = step(state, batch)
                if WARM - 1 <= self.taken + 1 <= WARM + self.steps:
                    jax.block_until_ready(result)

            self.taken += 1
            with self.clock.at("trace"):
                if self.taken == WARM:
                    self.begin()
                elif self.taken == WARM + self.steps:
                    self.end()
            return result

        return traced

    def begin(self) -> None:
        """Begin the trace, without a line for each Python call."""
        options = ProfileOptions()
        options.python_tracer_level = 0
        try:
            jax.profiler.start_trace(self.folder, profiler_options=options)
        except (OSError, RuntimeError) as error:  # another trace, or a folder that is refused
            self.say(f"*** no profile: {error}")
            return
        self.before = dict(self.clock.spent)

    def end(self) -> None:
        """End the trace, name its files, and print where the time of its steps went."""
        before, self.before = self.before, None
        if before is None:
            return
        after = dict(self.clock.spent)
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:
            self.say(f"*** the trace cannot be written ({error}): training goes on")
            return

        count = min(self.taken - WARM, self.steps)
        if not count:
            return

        # The newest file is that of this trace.
        files = sorted(self.folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        self.say(f"profile of {count} steps: {files[-1].parent if files else self.folder}")
        self.say("    to look into: xprof, or https://ui.perfetto.dev with its .trace.json.gz")
        spent = {place: after[place] - before.get(place, 0.0) for place in after}
        for line in [*_places(spent, count), *(_operations(files[-1], count) if files else [])]:
            self.say(f"    {line}")

    def close(self) -> None:
        """End a trace that the run did not, and print where the time of this start went."""
        if not self.steps:
            return
        self.end()
        if self.taken <= WARM:
            self.say(f"no profile: this start took {self.taken} steps, and it begins after {WARM}")
        for line in _whole(self.clock):
            self.say(f"    {line}")


@contextmanager
def profiling(
    config: Config, folder: Path, clock: Clock, say: Callable[[str], None]
) -> Iterator[Profile]:
    """Yield the profile of a run; its tables are printed when the block ends well."""
    profile = Profile(config.profile, folder / "profile", clock, say)
    try:
        yield profile
    except BaseException:
        if profile.before is not None:
            with suppress(OSError, RuntimeError):
                jax.profiler.stop_trace()
        raise
    profile.close()


def _rows(spent: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each row of a table."""
    rows = {}
    for row, places in ROWS.items():
        seconds = [spent.get(place, 0.0) for place in places]
        rows[row] = sum(seconds)
    return rows


def _places(spent: Mapping[str, float], steps: int) -> list[str]:
    """Return the table of the traced steps: milliseconds per step at each place."""
    rows = _rows(spent)
    total = max(sum(rows.values()), 1e-9)
    lines = []
    for name, seconds in rows.items():
        lines.append([name, f"{1000 * seconds / steps:,.2f}", f"{seconds / total:.1%}"])
    return columns(["place", "ms per step", "share"], lines)


def _whole(clock: Clock) -> list[str]:
    """Return the table of a whole start: seconds at each place."""
    total = clock.seconds - clock.before.seconds
    rows = {"start, compilation": clock.compiled - clock.began, **_rows(clock.spent)}
    rows["profiler"] = clock.spent.get("trace", 0.0)
    rows["rest"] = total - sum(rows.values())
    lines = []
    for name, seconds in rows.items():
        lines.append([name, f"{seconds:,.1f}", f"{seconds / total:.1%}"])
    return columns(["this start", "seconds", "share"], lines)


def _operations(file: Path, steps: int) -> list[str]:
    """Return the table of the operations that took most of the devices' time; [] without any.

    Those of one kind, whose names differ in a number, are one row.
    """
    nanoseconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for name, duration in operations(file):
        kind = re.sub(r"[._]\d+(\.\w+)?$", "", name)
        nanoseconds[kind] += duration
        calls[kind] += 1

    total = sum(nanoseconds.values())
    if not total:
        return []
    lines = []
    for name in sorted(nanoseconds, key=lambda name: -nanoseconds[name])[:TOP]:
        share = nanoseconds[name] / total
        milliseconds = nanoseconds[name] / 1e6 / steps
        lines.append([name, f"{milliseconds:,.2f}", f"{share:.1%}", f"{calls[name] / steps:,.0f}"])
    return columns(["operation", "ms per step", "share", "calls"], lines)


def operations(file: Path) -> list[tuple[str, float]]:
    """Return name and nanoseconds of each operation of XLA in a trace, on all devices.

    On a CPU several run at a time, and their sum exceeds the time of the step.
    """
    found = []
    data = ProfileData.from_file(str(file))  # its planes, lines and events live as long as it does
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    with warnings.catch_warnings():
        # Python 3.13 warns of jaxlib's own types; as an error that would end the process.
        warnings.simplefilter("ignore", DeprecationWarning)
        for plane in devices or planes:
            lines = list(plane.lines)
            named = [line for line in lines if line.name == "XLA Ops"]
            for line in named or lines:
                for event in line.events:
                    name = str(dict(event.stats).get("hlo_op", event.name if named else ""))
                    if name and not CONTAINERS.match(name):
                        found.append((name, event.duration_ns))
    return found
