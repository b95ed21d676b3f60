"""Hours, dollars and days of a run, from the time that a trillion tokens take."""

from dataclasses import dataclass

TRILLION = 1e12
HOUR = 3600.0  # seconds
DAY = 24 * HOUR


@dataclass(frozen=True)
class Cost:
    """What a run takes on a number of devices."""

    tokens: float  # of pre-training
    devices: int
    hours_per_trillion: float  # device-hours for 1e12 tokens
    phases: tuple[float, ...] = ()  # device-hours of the phases after it
    price: float | None = None  # dollars per device-hour

    @property
    def training_hours(self) -> float:
        """Device-hours of pre-training."""
        return self.tokens / TRILLION * self.hours_per_trillion

    @property
    def hours(self) -> float:
        """Device-hours of all phases."""
        return self.training_hours + sum(self.phases)

    @property
    def dollars(self) -> float | None:
        """Dollars of all phases, None without a price."""
        return None if self.price is None else self.hours * self.price

    @property
    def days(self) -> float:
        """Days of all phases on these devices."""
        return self.hours / self.devices / 24

    @property
    def days_per_trillion(self) -> float:
        """Days for 1e12 tokens on these devices."""
        return self.hours_per_trillion / self.devices / 24

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of all devices together."""
        return TRILLION * self.devices / (self.hours_per_trillion * HOUR)

    def saving(self, other: float) -> float:
        """Return the share of `other` device-hours per trillion tokens that this run saves."""
        return 1 - self.hours_per_trillion / other


def hours_per_trillion(tokens_per_second: float, devices: int) -> float:
    """Return the device-hours for 1e12 tokens at the speed of all devices together."""
    return TRILLION / tokens_per_second * devices / HOUR


def speed_at(mfu: float, flops: float, peak: float, devices: int) -> float:
    """Return tokens per second at a share `mfu` of the peak, with `flops` per token."""
    return mfu * peak * devices / flops
