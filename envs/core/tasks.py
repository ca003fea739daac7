"""Task distributions: named parameter ranges, and the disjoint splits drawn from them.

A task is a set of named values (a goal, a mass, a shape). Each axis of the continuous parameters is cut into `CELLS`
slabs, and the sum of a cell's slab indices, modulo `CELLS`, says which split the cell belongs to (`RESIDUES`): every
fifth cell is for testing, every fifth for validation, and no task is in two splits.

If some of the parameters are semantic, what the task asks for, the grid is over these alone, and the others are drawn
from their whole range in every split. A lone semantic axis has its slabs 1 and 3 held out: blocks a fifth of the
range wide, inside of it. Else the grid is over all axes that vary, and every marginal stays uniform; of a lone axis
each slab is cut once more, and these finer slabs serve as a second axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from envs.errors import TaskError

SPLITS = ("train", "test", "ood", "validation")  # their order is part of the published lists' seeds
CELLS = 5
RESIDUES = {"train": (1, 3, 4), "test": (0,), "validation": (2,)}
SHIFT = 1  # of the slabs of semantic axes: what is held out of a lone axis lies inside of its range
SEMANTIC_SEED = 20_261  # added to the seeds of published lists in which semantic parameters are held out
EDITION_SEED = 1_000_003  # added to them for each edition after the first
PUBLISHED_BLOCK = 100
MOST_DRAWN = 500  # times as many tasks as are wanted, to have those in the middle of the ranges
# Draws keep this fraction of a cell away from its walls, so that rounding to float32 cannot move a task across one.
WALL = 1e-3


def _as_tuple(value: object) -> tuple[float, ...]:
    if isinstance(value, int | float):
        return (float(value),)
    if isinstance(value, Sequence) and value and all(isinstance(v, int | float) for v in value):
        return tuple(float(v) for v in value)
    raise TaskError(f"expected a number or a list of numbers, got {value!r}")


@dataclass(frozen=True)
class Range:
    """A continuous task parameter, uniform between `low` and `high`; both have d entries.

    `ood` lists (low, high) pairs outside of the training range for the `ood` split; a pair may cut only some of the d
    axes: at least one axis must lie outside.

    `within` is a (low, high) pair of what is possible at all, whoever overrides the range: a mass is not negative, an
    arm is not ten metres long. A number stands for all axes; None: anything finite.

    `semantic` says that it is what a task asks for (a goal, a heading, a speed, a calibration): held out in blocks.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    ood: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    unit: str = "1"
    within: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    semantic: bool = False

    def __init__(
        self,
        low: object,
        high: object,
        ood: Sequence[tuple[object, object]] = (),
        unit: str = "1",
        within: tuple[object, object] | None = None,
        semantic: bool = False,
    ) -> None:
        object.__setattr__(self, "semantic", semantic)
        object.__setattr__(self, "low", _as_tuple(low))
        object.__setattr__(self, "high", _as_tuple(high))
        object.__setattr__(self, "ood", tuple((_as_tuple(a), _as_tuple(b)) for a, b in ood))
        object.__setattr__(self, "unit", unit)
        bounds = None if within is None else tuple(_wide(bound, len(self.low)) for bound in within)
        object.__setattr__(self, "within", bounds)
        for a, b in ((self.low, self.high), *self.ood):
            if len(a) != len(self.low) or len(b) != len(self.low):
                raise TaskError(f"range bounds differ in length: {a} and {b}")
            if not all(math.isfinite(x) and math.isfinite(y) for x, y in zip(a, b, strict=True)):
                raise TaskError(f"range bounds must be finite: {a} to {b}")
            if any(x > y for x, y in zip(a, b, strict=True)):
                raise TaskError(f"range is upside down: low {a} is above high {b}")
            if bounds and not all(
                low <= x and y <= high for low, x, y, high in zip(bounds[0], a, b, bounds[1], strict=True)
            ):
                of = "" if unit == "1" else f" {unit}"
                raise TaskError(f"must be within {span(*bounds)}{of}, got {span(a, b)}")
        for a, b in self.ood:
            if not self.outside(a, b):
                raise TaskError(f"ood range {a} to {b} overlaps the training range {self.low} to {self.high}")

    @property
    def size(self) -> int:
        return len(self.low)

    def outside(self, low: tuple[float, ...], high: tuple[float, ...]) -> bool:
        """Whether a box begins at the training box or beyond, and reaches beyond, along some axis."""
        bounds = zip(low, high, self.low, self.high, strict=True)
        return any((a < c and b <= c) or (b > d and a >= d) for a, b, c, d in bounds)


@dataclass(frozen=True)
class Categories:
    """A task parameter with unordered values; `ood` values are never trained on."""

    values: tuple[str, ...]
    ood: tuple[str, ...] = ()
    unit: str = "category"

    def __post_init__(self) -> None:
        if not self.values:
            raise TaskError("a category list must not be empty")
        if set(self.values) & set(self.ood):
            raise TaskError(f"categories {sorted(set(self.values) & set(self.ood))} are both trained on and ood")

    @property
    def names(self) -> tuple[str, ...]:
        """All values; a task stores the index into this tuple."""
        return self.values + self.ood

    @property
    def size(self) -> int:
        return 1


def _wide(bound: object, size: int) -> tuple[float, ...]:
    values = _as_tuple(bound)
    return values * size if len(values) == 1 else values


def span(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    """Two bounds as a user writes them: "0 to 20", "(0, 0) to (1, 2)"."""
    shown = (", ".join(f"{x:g}" for x in bound) for bound in (low, high))
    return " to ".join(text if len(low) == 1 else f"({text})" for text in shown)


Parameter = Range | Categories


@dataclass(frozen=True)
class Tasks:
    """M tasks as named tensors of shape (M, d), float32; a category is stored as the index of its name."""

    values: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def select(self, index: slice | Tensor | list[int]) -> Tasks:
        """The tasks at `index`."""
        return Tasks({name: value[index] for name, value in self.values.items()})

    def describe(self, index: int) -> dict[str, list[float]]:
        """One task as plain numbers, for reports and error messages."""
        return {name: [round(float(x), 6) for x in value[index]] for name, value in self.values.items()}


@dataclass
class TaskDistribution:
    """A named set of parameters with the splits `SPLITS` and a random generator of its own.

    `sample` draws from that generator; `published` gives the fixed lists on which methods are compared.

    Args:
        edition: of these lists. A family gets another one if something was chosen on the last.
    """

    parameters: dict[str, Parameter]
    seed: int = 0
    edition: int = 0
    generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.parameters:
            raise TaskError("a task distribution needs at least one parameter")
        self.generator = torch.Generator().manual_seed(self.seed)

    def override(self, changes: Mapping[str, object]) -> TaskDistribution:
        """A copy with other training ranges.

        Args:
            changes: parameter name to `[low, high]` (each a number or a list), to one value (a fixed parameter), or to
                a list of category names. ood ranges that the new range covers are dropped.

        Raises:
            TaskError: for an unknown name, a range that is upside down, or categories that do not exist.
        """
        parameters = dict(self.parameters)
        for name, value in changes.items():
            if name not in parameters:
                raise TaskError(f"unknown task parameter '{name}' (valid: {', '.join(sorted(parameters))})")
            try:
                parameters[name] = _overridden(parameters[name], value)
            except TaskError as error:
                raise TaskError(f"task parameter '{name}': {error}") from None
        return TaskDistribution(parameters, self.seed, self.edition)

    def sample(self, n: int, split: str = "train", width: float = 1.0) -> Tasks:
        """n tasks of a split, drawn from the distribution's own generator.

        Args:
            width: in (0, 1]; of the ranges of semantic parameters (of all, where none is), about their middle: the n
                tasks are those nearest to it of so many that they lie within that width, give or take chance, though of
                no more than MOST_DRAWN times n.

        Raises:
            TaskError: if the split is unknown or nothing can be drawn from it.
        """
        share = max(width ** sum(self._gridded()), 1 / MOST_DRAWN)
        tasks = self._draw(math.ceil(n / share), split, self.generator)
        if len(tasks) == n:
            return tasks
        nearest = (self._gridded_unit(tasks) - 0.5).abs().amax(-1).argsort(stable=True)[:n]
        return tasks.select(nearest.sort().values)

    def published(self, split: str, n: int = PUBLISHED_BLOCK) -> Tasks:
        """The first n tasks of the fixed list of a split: the same for every method, seed and machine.

        Raises:
            TaskError: as `sample`, or if n is below 1.
        """
        if n < 1:
            raise TaskError(f"a published list has at least 1 task, not {n}")
        blocks = []
        for block in range(-(-n // PUBLISHED_BLOCK)):
            seed = 7_919 * (block + 1) + SPLITS.index(_known(split)) + SEMANTIC_SEED * self.semantic
            generator = torch.Generator().manual_seed(seed + EDITION_SEED * self.edition)
            blocks.append(self._draw(PUBLISHED_BLOCK, split, generator))
        joined = {name: torch.cat([b[name] for b in blocks]) for name in self.parameters}
        return Tasks(joined).select(slice(0, n))

    @property
    def semantic(self) -> bool:
        """Whether blocks of semantic parameters are held out: one of them varies."""
        return any(p.semantic and p.low != p.high for p in self._ranges.values())

    @property
    def _ranges(self) -> dict[str, Range]:
        return {name: p for name, p in self.parameters.items() if isinstance(p, Range)}

    def _gridded(self) -> list[bool]:
        """For every axis of the continuous parameters whether the grid cuts it."""
        return [
            high > low and (p.semantic or not self.semantic)
            for p in self._ranges.values()
            for low, high in zip(p.low, p.high, strict=True)
        ]

    def moved(self, tasks: Tasks) -> dict[str, Tensor]:
        """For every parameter which of M tasks have it beyond its training values, (M,) bool."""
        beyond = {}
        for name, parameter in self.parameters.items():
            value = tasks[name].double()
            if isinstance(parameter, Categories):
                beyond[name] = value[:, 0] >= len(parameter.values)
                continue
            low, high = torch.tensor(parameter.low).double(), torch.tensor(parameter.high).double()
            rounding = torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs())
            slack = torch.maximum(1e-6 * (high - low).clamp(min=1.0), rounding)
            beyond[name] = ((value < low - slack) | (value > high + slack)).any(-1)
        return beyond

    def split_of(self, tasks: Tasks) -> list[str]:
        """The split that each task belongs to."""
        residues = _residues(self._gridded_unit(tasks), self.semantic)
        splits = {residue: split for split, own in RESIDUES.items() for residue in own}
        outside = torch.stack(list(self.moved(tasks).values())).any(0)
        return ["ood" if o else splits[r] for o, r in zip(outside.tolist(), residues.tolist(), strict=True)]

    def _gridded_unit(self, tasks: Tasks) -> Tensor:
        """Where M tasks lie in the unit cube of the gridded axes, (M, P)."""
        unit = []
        for name, parameter in self._ranges.items():
            low, high = torch.tensor(parameter.low).double(), torch.tensor(parameter.high).double()
            unit.append((tasks[name].double() - low) / torch.where(high > low, high - low, 1.0))
        return torch.cat(unit, -1)[:, self._gridded()]

    def _draw(self, n: int, split: str, generator: torch.Generator) -> Tasks:
        _known(split)
        gridded = self._gridded()
        if split != "ood" and not any(gridded):
            raise TaskError("no continuous parameter varies, so no region can be held out: widen a range")
        unit = torch.rand(n, len(gridded), generator=generator, dtype=torch.float64)
        # What is not moved out is as trained; the published ood lists without blocks are older than validation.
        residues = RESIDUES.get(split, RESIDUES["train"] if self.semantic else tuple(range(1, CELLS)))
        pick = torch.tensor(residues)[torch.randint(len(residues), (n,), generator=generator)]
        if any(gridded):
            unit[:, gridded] = _into_cells(unit[:, gridded], pick, self.semantic)
        values, start = {}, 0
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Categories):
                values[name] = torch.randint(len(parameter.values), (n, 1), generator=generator).float()
                continue
            low, high = torch.tensor(parameter.low).double(), torch.tensor(parameter.high).double()
            values[name] = (low + (high - low) * unit[:, start : start + parameter.size]).float()
            start += parameter.size
        if split == "ood":
            self._move_out(values, n, generator)
        return Tasks(values)

    def _move_out(self, values: dict[str, Tensor], n: int, generator: torch.Generator) -> None:
        """Redraw beyond the training ranges: every parameter that can, with probability 1/2, and at least one."""
        movable = [name for name, parameter in self.parameters.items() if parameter.ood]
        if not movable:
            raise TaskError("split 'ood': no parameter has values beyond its training range")
        moved = torch.rand(n, len(movable), generator=generator) < 0.5
        moved[torch.arange(n), torch.randint(len(movable), (n,), generator=generator)] = True
        for column, name in enumerate(movable):
            parameter = self.parameters[name]
            choice = torch.randint(len(parameter.ood), (n,), generator=generator)
            if isinstance(parameter, Categories):
                new = (len(parameter.values) + choice)[:, None].float()
            else:
                low = torch.tensor([a for a, _ in parameter.ood]).double()[choice]
                high = torch.tensor([b for _, b in parameter.ood]).double()[choice]
                inner = torch.rand(n, parameter.size, generator=generator, dtype=torch.float64)
                new = (low + (high - low) * (WALL + (1 - 2 * WALL) * inner)).float()
            values[name] = torch.where(moved[:, column, None], new, values[name])


def _residues(unit: Tensor, semantic: bool) -> Tensor:
    """The residues, (n,), of the cells in which points of the unit cube, (n, P), lie."""
    if unit.shape[1] == 1 and not semantic:
        fine = (unit * CELLS**2).long().clamp(0, CELLS**2 - 1)
        return (fine // CELLS + fine % CELLS)[:, 0] % CELLS
    return ((unit * CELLS).long().clamp(0, CELLS - 1).sum(-1) - SHIFT * semantic) % CELLS


def _into_cells(unit: Tensor, residue: Tensor, semantic: bool) -> Tensor:
    """Move uniform points (n, P) into cells of the residues wanted, (n,), by choosing the cell of the first axis.

    The first axis' cell completes the sum of the others, so every split is drawn exactly, without rejection. A lone
    axis that is not semantic does so by the slab within its slab.
    """
    cell = (unit * CELLS).long().clamp(max=CELLS - 1)
    inside = WALL + (1 - 2 * WALL) * (unit * CELLS % 1.0)
    wanted = residue[:, None] + SHIFT * semantic
    if unit.shape[1] == 1 and not semantic:
        inside = ((wanted - cell) % CELLS + inside) / CELLS
    else:
        cell[:, :1] = (wanted - cell[:, 1:].sum(-1, keepdim=True)) % CELLS
    return (cell + inside) / CELLS


def _known(split: str) -> str:
    if split not in SPLITS:
        raise TaskError(f"unknown split '{split}' (valid: {', '.join(SPLITS)})")
    return split


def _overridden(parameter: Parameter, value: object) -> Parameter:
    if isinstance(parameter, Categories):
        names = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
        unknown = [n for n in names if n not in parameter.names]
        if unknown:
            raise TaskError(f"unknown categories {unknown} (valid: {', '.join(parameter.names)})")
        return Categories(tuple(names), tuple(n for n in parameter.names if n not in names))
    if isinstance(value, int | float):
        value = [value, value]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TaskError(f"expected [low, high], got {value!r}")
    new = Range(value[0], value[1], (), parameter.unit)
    if new.size != parameter.size:
        raise TaskError(f"expected {parameter.size} numbers for low and for high, got {value!r}")
    ood = tuple(o for o in parameter.ood if new.outside(*o))
    return Range(new.low, new.high, ood, parameter.unit, parameter.within, parameter.semantic)
