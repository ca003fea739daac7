"""What a person can turn of a task: a slider for each number that varies, a menu for each category."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from envs.core.tasks import Categories, Range, TaskDistribution


@dataclass(frozen=True)
class Slider:
    """One entry of a continuous parameter; all bounds are in its unit."""

    name: str
    axis: int
    size: int  # entries of the parameter
    unit: str
    low: float  # ends of the slider, with what is ood
    high: float
    trained: tuple[float, float]

    @property
    def label(self) -> str:
        """Such as "mass (kg)", or "goal 2 (m)" for the second of several entries."""
        number = f" {self.axis + 1}" if self.size > 1 else ""
        return f"{self.name}{number}" + (f" ({self.unit})" if self.unit != "1" else "")

    @property
    def ood(self) -> list[tuple[float, float]]:
        """The parts of the slider that were not trained on."""
        first, last = self.trained
        return [part for part in ((self.low, first), (last, self.high)) if part[0] < part[1]]

    @property
    def hint(self) -> str:
        """Its ranges in words."""
        parts = [f"trained on {_span(*self.trained)}", *(f"ood {_span(*part)}" for part in self.ood)]
        return ", ".join(parts) + ("" if self.unit == "1" else f" {self.unit}")

    @property
    def digits(self) -> int:
        """Digits after the point that are worth showing: there are a hundred to a thousand steps."""
        return max(2 - math.floor(math.log10(self.high - self.low)), 0)

    @property
    def step(self) -> float:
        """A round number."""
        return 10.0 ** math.floor(math.log10(self.high - self.low) - 2)


@dataclass(frozen=True)
class Menu:
    """A category; what was never trained on is among the choices, and named in `ood`."""

    name: str
    choices: tuple[str, ...]
    ood: tuple[str, ...]


def knobs(distribution: TaskDistribution) -> Iterator[Slider | Menu]:
    """What can be turned of the tasks of a distribution, in its order; an entry that never varies is left out."""
    for name, parameter in distribution.parameters.items():
        if isinstance(parameter, Categories):
            yield Menu(name, parameter.names, parameter.ood)
        else:
            yield from _sliders(name, parameter)


def _sliders(name: str, parameter: Range) -> Iterator[Slider]:
    for axis, (first, last) in enumerate(zip(parameter.low, parameter.high, strict=True)):
        low = min([first, *(low[axis] for low, _ in parameter.ood)])
        high = max([last, *(high[axis] for _, high in parameter.ood)])
        if low < high:
            yield Slider(name, axis, parameter.size, parameter.unit, low, high, (first, last))


def _span(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}"
