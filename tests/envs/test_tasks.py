"""Task distributions: the splits never meet, and every number they promise."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from envs import registry
from envs.core.tasks import CELLS, SPLITS, Categories, Parameter, Range, TaskDistribution, Tasks
from envs.errors import TaskError

NUMBERS = st.floats(-50, 50, width=32)
SPANS = st.one_of(st.just(0.0), st.floats(0.0625, 50, width=32))


@functools.cache
def parameters_of(name: str) -> dict[str, Parameter]:
    return registry.make(name, 1).distribution.parameters


def registered(name: str) -> TaskDistribution:
    """A fresh distribution of an environment's tasks."""
    return TaskDistribution(dict(parameters_of(name)))


Box = tuple[list[float], list[float]]
Plan = tuple[int, list[tuple[Box, list[Box], bool]], int | None, bool]


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, list[Box], bool]:
    """Bounds of one to three numbers, some of them fixed; perhaps an ood box at a side of one axis; semantic or not."""
    low = draw(st.lists(NUMBERS, min_size=1, max_size=3))
    high = [x + draw(SPANS) for x in low]
    side, semantic = draw(st.sampled_from(["none", "below", "above"])), draw(st.booleans())
    if side == "none":
        return (low, high), [], semantic
    axis, width = draw(st.integers(0, len(low) - 1)), draw(st.floats(0.0625, 50))
    beyond = (low.copy(), high.copy())
    beyond[0][axis] = low[axis] - width if side == "below" else high[axis]
    beyond[1][axis] = low[axis] if side == "below" else high[axis] + width
    return (low, high), [beyond], semantic


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """What `built` makes a distribution of: seed, ranges (one varies), the categories' place, whether some are ood."""
    ranges = draw(st.lists(boxes(), min_size=1, max_size=3))
    assume(any(low != high for (low, high), *_ in ranges))
    return draw(st.integers(0, 2**32)), ranges, draw(st.none() | st.integers(0, 3)), draw(st.booleans())


def built(plan: Plan) -> TaskDistribution:
    seed, ranges, place, unseen = plan
    parameters: list[Parameter] = [
        Range(low, high, ood=ood, semantic=semantic) for (low, high), ood, semantic in ranges
    ]
    if place is not None:
        parameters.insert(place, Categories(("box", "sphere", "cylinder"), ("cone",) if unseen else ()))
    return TaskDistribution({f"parameter{i}": parameter for i, parameter in enumerate(parameters)}, seed)


def free_axes(distribution: TaskDistribution, tasks: Tasks, kinds: tuple[bool, ...] = (True, False)) -> Tensor:
    """Position (n, P) in [0, 1] of tasks along every axis that varies, from the definition of the ranges.

    Args:
        kinds: (True,) for those of semantic parameters, (False,) for the others.
    """
    columns = []
    for name, parameter in distribution.parameters.items():
        if isinstance(parameter, Range) and parameter.semantic in kinds:
            for axis, (low, high) in enumerate(zip(parameter.low, parameter.high, strict=True)):
                if high > low:
                    columns.append((tasks[name][:, axis].double() - low) / (high - low))
    return torch.stack(columns, -1) if columns else torch.zeros(len(tasks), 0)


def residues(distribution: TaskDistribution, tasks: Tasks) -> set[int]:
    """The published rule, written down a second time: the remainder of the sum of the cells' numbers by five.

    Only semantic axes have numbers, if there are some, and the sum is less by one. If not, a lone axis has two numbers:
    that of its fifth, and that of the fifth within it.
    """
    position = free_axes(distribution, tasks, (True,))
    if position.shape[1]:
        return set(((position * 5).floor().sum(-1) - 1).remainder(5).int().tolist())
    position = free_axes(distribution, tasks)
    cells = (position * 5).floor()
    if position.shape[1] == 1:
        cells = torch.cat([cells, (position * 25).floor() % 5], -1)
    return set(cells.sum(-1).remainder(5).int().tolist())


RESIDUES = {"train": {1, 3, 4}, "test": {0}, "validation": {2}}


@pytest.mark.parametrize("split", RESIDUES)
@given(plan=plans())
def test_no_task_of_a_split_lies_in_a_cell_of_another(split: str, plan: Plan) -> None:
    distribution = built(plan)
    tasks = distribution.sample(60, split)
    assert residues(distribution, tasks) <= RESIDUES[split]
    position = free_axes(distribution, tasks)
    assert ((position >= -1e-3) & (position <= 1 + 1e-3)).all()  # as far as float32 goes


@given(plans(), st.integers(1, 40))
def test_split_of_agrees_with_the_split_that_was_drawn(plan: Plan, count: int) -> None:
    distribution = built(plan)
    beyond = any(parameter.ood for parameter in distribution.parameters.values())
    for split in SPLITS if beyond else RESIDUES:
        tasks = distribution.sample(count, split)
        assert len(tasks) == count
        assert distribution.split_of(tasks) == [split] * count
        assert distribution.split_of(distribution.published(split, count)) == [split] * count


@given(plans())
def test_values_are_inside_their_ranges(plan: Plan) -> None:
    distribution = built(plan)
    for split in RESIDUES:
        tasks = distribution.sample(30, split)
        for name, parameter in distribution.parameters.items():
            value = tasks[name]
            assert value.dtype == torch.float32 and value.shape == (30, parameter.size)
            if isinstance(parameter, Categories):
                assert ((value >= 0) & (value < len(parameter.values)) & (value % 1 == 0)).all()
            else:
                low, high = torch.tensor(parameter.low), torch.tensor(parameter.high)
                assert ((value >= low - 1e-5) & (value <= high + 1e-5)).all()


@given(plans())
def test_an_ood_task_is_outside_in_at_least_one_parameter(plan: Plan) -> None:
    distribution = built(plan)
    assume(any(parameter.ood for parameter in distribution.parameters.values()))
    tasks = distribution.sample(60, "ood")
    outside = torch.zeros(60, dtype=torch.bool)
    for name, parameter in distribution.parameters.items():
        value = tasks[name].double()
        if isinstance(parameter, Categories):
            outside |= value[:, 0] == 3
        else:
            outside |= ((value < torch.tensor(parameter.low)) | (value > torch.tensor(parameter.high))).any(-1)
    assert outside.all()


@given(st.floats(0.05, 1.4), st.floats(0.01, 0.5), st.sampled_from(SPLITS))
def test_overrides_keep_the_splits_apart(low: float, width: float, split: str) -> None:
    distribution = registered("reach").override({"payload_mass": [low, low + width], "damping_scale": 1.0})
    tasks = distribution.sample(40, split)
    assert distribution.split_of(tasks) == [split] * 40
    if split != "ood":
        assert (tasks["damping_scale"] == 1.0).all()
        assert ((tasks["payload_mass"] >= low - 1e-6) & (tasks["payload_mass"] <= low + width + 1e-6)).all()
        assert residues(distribution, tasks) <= RESIDUES[split]


def one_axis() -> TaskDistribution:
    return TaskDistribution({"velocity": Range(0.0, 2.0)})


@pytest.mark.parametrize("split", RESIDUES)
@pytest.mark.parametrize("name", [*registry.names(), "one axis"])
def test_every_marginal_is_uniform(name: str, split: str) -> None:
    """Except those of semantic parameters, of which blocks are held out."""
    distribution = one_axis() if name == "one axis" else registered(name)
    position = free_axes(distribution, distribution.sample(20_000, split), (False,))
    for axis in position.T:
        counts = torch.histc(axis, CELLS, 0.0, 1.0)
        assert (counts / 20_000 - 1 / CELLS).abs().max() < 0.015  # five standard deviations
        lone = position.shape[1] == 1  # its finer slabs are not
        assert axis.mean().item() == pytest.approx(0.5, abs=0.115 if lone else 0.015)
        assert axis.var().item() == pytest.approx(1 / 12, abs=0.02 if lone else 0.01)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", registry.names())
def test_every_category_and_every_way_out_is_drawn(name: str, split: str) -> None:
    distribution = registered(name).parameters | {"shape": Categories(("box", "ball"), ("cone", "ring"))}
    drawn = TaskDistribution(distribution).sample(400, split)
    assert set(drawn["shape"].flatten().tolist()) == ({0, 1, 2, 3} if split == "ood" else {0, 1})
    if split == "ood":
        for key, parameter in distribution.items():
            for low, high in parameter.ood if isinstance(parameter, Range) else ():
                inside = (drawn[key] >= torch.tensor(low)) & (drawn[key] <= torch.tensor(high))
                assert inside.all(-1).any()


def test_the_tasks_nearest_to_the_middle_are_as_many_as_its_share_of_the_volume() -> None:
    few, drawn = (registered("reach_search") for _ in range(2))
    chosen, pool = few.sample(10, "validation", width=0.5)["goal"], drawn.sample(80, "validation")["goal"]
    goals = few.parameters["goal"]
    low, high = torch.tensor(goals.low), torch.tensor(goals.high)
    far = ((pool - low) / (high - low) - 0.5).abs().amax(-1)
    assert torch.equal(chosen, pool[far <= far.sort().values[9]])


def test_sampling_follows_the_distribution_s_own_seed() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(0)
        distribution = TaskDistribution(registered("reach").parameters, seed)
        return torch.cat([distribution.sample(5)["goal"], distribution.sample(5, "test")["goal"]])

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert len(draw(0).unique(dim=0)) == 10


def test_an_overridden_distribution_keeps_ood_ranges_that_are_still_outside() -> None:
    narrower = registered("reach").override({"payload_mass": [0.1, 0.2]})
    assert narrower.parameters["payload_mass"].ood == (((1.5,), (3.0,)),)
    wider = registered("reach").override({"payload_mass": [0.1, 2.0]})
    assert wider.parameters["payload_mass"].ood == ()
    assert (wider.sample(200, "ood")["payload_mass"] <= 2.0).all()
    original = registered("reach").parameters["payload_mass"]
    assert isinstance(original, Range) and original.low == (0.05,)


def test_overridden_categories_leave_the_rest_to_ood() -> None:
    distribution = TaskDistribution({"mass": Range(0.0, 1.0), "shape": Categories(("box", "ball"), ("cone",))})
    changed = distribution.override({"shape": ["ball"]})
    shape = changed.parameters["shape"]
    assert isinstance(shape, Categories)
    assert (shape.values, shape.ood) == (("ball",), ("box", "cone"))
    assert changed.override({"shape": "cone"}).parameters["shape"].ood == ("ball", "box")
    assert set(changed.sample(50, "ood")["shape"].flatten().tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"payload": [0, 1]}, r"unknown task parameter 'payload' \(valid: damping_scale, goal, payload_mass\)"),
        ({"payload_mass": [1.0, 0.5]}, "'payload_mass': range is upside down"),
        ({"payload_mass": [-5, -1]}, "'payload_mass': must be within 0 to 20 kg, got -5 to -1$"),
        ({"payload_mass": [1e20, 1e21]}, "'payload_mass': must be within 0 to 20 kg, got 1e\\+20 to 1e\\+21$"),
        (
            {"goal": [[0.4, 0.0, 0.3], [10, 0.1, 0.4]]},
            r"'goal': must be within \(-0.9, -0.9, 0\) to \(0.9, 0.9, 1.2\) m",
        ),
        ({"payload_mass": [0.1, 0.2, 0.3]}, r"'payload_mass': expected \[low, high\]"),
        ({"payload_mass": [0.1]}, r"'payload_mass': expected \[low, high\]"),
        ({"payload_mass": "heavy"}, r"'payload_mass': expected \[low, high\], got 'heavy'"),
        ({"payload_mass": ["a", "b"]}, "'payload_mass': expected a number"),
        ({"payload_mass": [0.0, math.inf]}, "'payload_mass': range bounds must be finite"),
        ({"goal": [0.1, 0.2]}, "'goal': expected 3 numbers"),
        ({"goal": [[0.1, 0.2], [0.3, 0.4]]}, "'goal': expected 3 numbers"),
        ({"goal": [[0.1, 0.2, 0.3], [0.3, 0.4]]}, "'goal': range bounds differ in length"),
    ],
)
def test_wrong_overrides_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        registered("reach").override(changes)
    assert "\n" not in str(caught.value)


def test_only_what_states_bounds_has_some() -> None:
    """An environment of somebody's own decides for itself."""
    assert TaskDistribution({"mass": Range(0.0, 1.0)}).override({"mass": [-5, 1e20]}).parameters["mass"].size == 1
    bounded = TaskDistribution({"mass": Range(0.0, 1.0, within=(0.0, 2.0))}).override({"mass": [0.5, 1.0]})
    with pytest.raises(TaskError, match="within 0 to 2"):
        bounded.override({"mass": 3.0})


@pytest.mark.parametrize("name", registry.names())
def test_every_family_states_what_is_possible(name: str) -> None:
    for parameter in registered(name).parameters.values():
        assert isinstance(parameter, Categories) or parameter.within is not None


def test_wrong_definitions_are_refused() -> None:
    for wrong, message in (
        (lambda: Range(0.0, 1.0, ood=[(0.5, 2.0)]), "overlaps the training range"),
        (lambda: Range((0.0, 0.0), (1.0, 1.0), ood=[((0.9, 0.9), (2.0, 2.0))]), "overlaps the training range"),
        (lambda: Range(0.0, 1.0, ood=[(1.0, 1.0)]), "overlaps the training range"),
        (lambda: Range(0.0, 1.0, ood=[(2.0, 1.5)]), "upside down"),
        (lambda: Range((0.0, 1.0), 2.0), "differ in length"),
        (lambda: Range(0.0, 1.0, ood=[(2.0, 3.0)], within=(0.0, 2.5)), "must be within 0 to 2.5, got 2 to 3"),
        (lambda: Range((0.0, 1.0), (1.0, 2.0), within=(0.0, 1.5)), r"within \(0, 0\) to \(1.5, 1.5\), got \(0, 1\)"),
        (lambda: Categories(()), "must not be empty"),
        (lambda: Categories(("a", "b"), ("b",)), "both trained on and ood"),
        (lambda: TaskDistribution({}), "at least one parameter"),
        (lambda: TaskDistribution({"s": Categories(("a", "b"))}).override({"s": ["c"]}), "unknown categories"),
        (lambda: TaskDistribution({"s": Categories(("a", "b"))}).sample(2), "no continuous parameter varies"),
        (lambda: TaskDistribution({"x": Range(0.0, 1.0)}).sample(2, "ood"), "no parameter has values beyond"),
        (lambda: one_axis().sample(2, "later"), r"unknown split 'later' \(valid: train, test, ood, validation\)"),
        (lambda: one_axis().published("later"), "unknown split 'later'"),
        (lambda: one_axis().published("test", 0), "at least 1"),
    ):
        with pytest.raises(TaskError, match=message):
            wrong()


def test_tasks_select_and_describe() -> None:
    tasks = Tasks({"goal": torch.tensor([[0.1, 0.2], [0.3, 0.4]]), "mass": torch.tensor([[1.0], [2.0]])})
    assert len(tasks) == 2
    assert tasks.select([1]).describe(0) == {"goal": [0.3, 0.4], "mass": [2.0]}
    assert len(tasks.select(slice(0, 1))) == 1
    np.testing.assert_array_equal(tasks["mass"].numpy(), [[1.0], [2.0]])
