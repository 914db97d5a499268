"""How long a request takes to its first byte: the distributions that a store model draws from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vstore.errors import InvalidInput, InvalidSetting
from vstore.settings import require
from vstore.types import Float64s


class Latency(Protocol):
    """A distribution of times to the first byte, in milliseconds."""

    def draw(self, rng: np.random.Generator, n: int) -> Float64s:
        """Return float64[n], independent draws, in milliseconds."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same time.

    Raises:
        InvalidSetting: a negative time.
    """

    ms: float

    def __post_init__(self) -> None:
        require(self.ms >= 0, f"ms is {self.ms}; it must be 0 or more")

    def draw(self, rng: np.random.Generator, n: int) -> Float64s:
        """As `Latency.draw`."""
        return np.full(n, self.ms)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal round a median, and now and then a straggler that takes a multiple of it.

    Raises:
        InvalidSetting: a median of 0 or less, a negative spread, a share outside 0 to 1, a factor below 1.
    """

    median_ms: float
    sigma: float = 0.4
    """Standard deviation of the logarithm."""
    straggler_share: float = 0.0
    straggler_factor: float = 8.0

    def __post_init__(self) -> None:
        require(self.median_ms > 0, f"median_ms is {self.median_ms}; it must be above 0")
        require(self.sigma >= 0, f"sigma is {self.sigma}; it must be 0 or more")
        require(
            0 <= self.straggler_share <= 1,
            f"straggler_share is {self.straggler_share}; it must be from 0 to 1",
        )
        require(
            self.straggler_factor >= 1, f"straggler_factor is {self.straggler_factor}; it must be 1 or more"
        )

    def draw(self, rng: np.random.Generator, n: int) -> Float64s:
        """As `Latency.draw`."""
        times = self.median_ms * np.exp(self.sigma * rng.standard_normal(n))
        # An exponential's last bit differs from machine to machine; a tenth of a microsecond does not.
        times = np.round(times, 4)
        return np.where(rng.random(n) < self.straggler_share, times * self.straggler_factor, times)


@dataclass(frozen=True, slots=True)
class Empirical:
    """Times that were measured, drawn with replacement.

    Raises:
        InvalidSetting: no times, or one that is negative or not finite.
    """

    times_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        times = np.asarray(self.times_ms)
        if times.size == 0 or not np.isfinite(times).all() or (times < 0).any():
            raise InvalidSetting(f"times_ms has {times.size} times; at least one finite time >= 0 is needed")

    @classmethod
    def read(cls, path: str | Path) -> Empirical:
        """Read a file of one time a line, in milliseconds; empty lines and what follows a # do not count.

        Raises:
            InvalidInput: a line that is no number; the message names it.
        """
        times = []
        for number, line in enumerate(Path(path).read_text().splitlines(), 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            try:
                times.append(float(text))
            except ValueError:
                raise InvalidInput(f"{path}, line {number}: {text!r} is no time in milliseconds") from None
        return cls(tuple(times))

    def draw(self, rng: np.random.Generator, n: int) -> Float64s:
        """As `Latency.draw`."""
        return rng.choice(np.asarray(self.times_ms, np.float64), n)
