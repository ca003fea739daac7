"""What a task asks for is held out in blocks; and which parameters of a task lie beyond what was trained on."""

import pytest
import torch

from envs.core.tasks import Categories, Range, TaskDistribution

SPEED, MASS = Range(0.0, 2.0, ood=[(2.0, 3.0)], semantic=True), Range(0.9, 1.1, ood=[(0.7, 0.9), (1.1, 1.3)])
BLOCKS = {"train": [0, 2, 4], "test": [1], "validation": [3]}


def speeds() -> TaskDistribution:
    return TaskDistribution({"speed": SPEED, "mass": MASS})


def inside(distribution: TaskDistribution, split: str, name: str, n: int = 5000) -> torch.Tensor:
    """Positions (n,) of draws in the range of a parameter with one axis: 0 to 1."""
    parameter = distribution.parameters[name]
    assert isinstance(parameter, Range)
    low, high = parameter.low[0], parameter.high[0]
    return (distribution.sample(n, split)[name][:, 0].double() - low) / (high - low)


@pytest.mark.parametrize("split", BLOCKS)
def test_a_lone_semantic_axis_has_whole_fifths_held_out(split: str) -> None:
    position = inside(speeds(), split, "speed")
    counts = torch.histc(position, 5, 0.0, 1.0) / len(position)
    expected = torch.tensor([1 / len(BLOCKS[split]) if slab in BLOCKS[split] else 0.0 for slab in range(5)])
    assert (counts - expected).abs().max() < 0.04
    for slab in BLOCKS[split]:  # each of them to its ends
        own = position[(position * 5).long() == slab] * 5 - slab
        assert own.min() < 0.01 and own.max() > 0.99


@pytest.mark.parametrize("split", BLOCKS)
def test_the_other_parameters_have_their_whole_range_in_every_split(split: str) -> None:
    counts = torch.histc(inside(speeds(), split, "mass"), 25, 0.0, 1.0)
    assert (counts / 5000 - 1 / 25).abs().max() < 0.015


def test_the_middle_of_a_test_block_is_a_tenth_of_the_range_from_any_training_value() -> None:
    gap = (inside(speeds(), "train", "speed", 20_000) - 0.3).abs().min().item()
    assert 0.1 < gap < 0.101
    assert (inside(speeds(), "test", "speed") - 0.3).abs().max() < 0.1


def test_several_semantic_axes_have_blocks_of_the_same_width() -> None:
    goals = TaskDistribution({"goal": Range((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), semantic=True), "mass": MASS})
    train, test = goals.sample(5000)["goal"], goals.sample(50, "test")["goal"]
    middle = ((test * 5).floor() + 0.5) / 5
    gap = (train[None] - middle[:, None]).abs().amax(-1).amin(-1)  # along the axis on which they differ most
    assert gap.min() > 0.1


def test_a_semantic_parameter_that_is_fixed_leaves_the_grid_to_the_others() -> None:
    plain = TaskDistribution({"speed": Range(1.0, 1.0), "mass": MASS})
    fixed = speeds().override({"speed": 1.0})
    assert speeds().semantic and not fixed.semantic
    for split in BLOCKS:
        assert torch.equal(fixed.published(split)["mass"], plain.published(split)["mass"])


def test_fresh_lists_for_what_is_held_out_in_blocks() -> None:
    """A list whose earlier form others have chosen by is not drawn from the same numbers."""
    plain = TaskDistribution({"speed": Range(0.0, 2.0), "mass": MASS}).published("test")
    assert not torch.isclose(speeds().published("test")["speed"] * 5 % 2, plain["speed"] * 5 % 2).any()


def test_beyond_its_range_in_one_parameter_a_task_is_as_trained_in_the_others() -> None:
    tasks = speeds().sample(2000, "ood")
    moved = speeds().moved(tasks)
    assert set(speeds().split_of(tasks.select(~moved["speed"]))) == {"ood"}
    slabs = (tasks["speed"][~moved["speed"], 0] / 2.0 * 5).long()
    assert set(slabs.tolist()) == set(BLOCKS["train"])


def test_which_parameters_are_moved() -> None:
    shape = Categories(("box", "ball"), ("cone",))
    place = Range((0.0, 0.0), (1.0, 1.0), ood=[((1.0, 0.0), (2.0, 1.0))])
    distribution = TaskDistribution({"speed": SPEED, "mass": MASS, "shape": shape, "place": place})
    tasks = distribution.published("ood", 400)
    moved = distribution.moved(tasks)
    assert torch.equal(moved["speed"], tasks["speed"][:, 0] > 2.0)
    assert torch.equal(moved["mass"], (tasks["mass"][:, 0] - 1.0).abs() > 0.1)
    assert torch.equal(moved["shape"], tasks["shape"][:, 0] == 2)
    assert torch.equal(moved["place"], tasks["place"][:, 0] > 1.0)
    assert torch.stack(list(moved.values())).any(0).all()
    assert all(100 < own.sum() < 300 for own in moved.values())
    for split in BLOCKS:
        assert not any(own.any() for own in distribution.moved(distribution.published(split)).values())
