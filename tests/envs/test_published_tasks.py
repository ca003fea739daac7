"""The published lists of held-out tasks stay what they are, and depend on nothing."""

import functools

import pytest
import torch

from envs import registry
from envs.core.tasks import SPLITS, Range, TaskDistribution, Tasks


@functools.cache
def registered(name: str) -> TaskDistribution:
    """The distribution of an environment's tasks."""
    return registry.make(name, 1).distribution


# The published lists: whoever changes these numbers makes every earlier result incomparable.
PUBLISHED = {
    ("ant_dir", "test"): ({"heading": [-1.615183], "mass_scale": [1.027794]}, -274.8637771675812),
    ("ant_dir", "ood"): ({"heading": [2.399078], "mass_scale": [1.185262]}, 1252.3407988484985),
    ("ant_dir", "validation"): ({"heading": [1.738225], "mass_scale": [0.932551]}, 2209.2424241346853),
    ("cheetah_vel", "test"): ({"goal": [0.485871], "mass_scale": [1.027794]}, 1498.8935450746746),
    ("cheetah_vel", "ood"): ({"goal": [2.567114], "mass_scale": [1.14893]}, 2921.6158496985745),
    ("cheetah_vel", "validation"): ({"goal": [1.553294], "mass_scale": [0.932551]}, 2294.096979274373),
    ("push", "test"): (
        {
            "goal": [0.610011, 0.055637],
            "object_size": [0.032888, 0.032879, 0.025364],
            "object_mass": [0.211229],
            "friction": [0.376593],
            "object_shape": [0.0],
        },
        3836.390705880714,
    ),
    ("push_turned", "test"): (
        {
            "turn": [-1.416068],
            "mass_shift": [-0.370117, -0.256445],
            "object_size": [0.027485, 0.028081, 0.036967],
            "object_mass": [0.537167],
            "friction": [0.469924],
            "object_shape": [0.0],
        },
        2396.197404966245,
    ),
    ("push_turned", "validation"): (
        {
            "turn": [2.933624],
            "mass_shift": [-0.132526, 0.167311],
            "object_size": [0.036152, 0.037756, 0.036601],
            "object_mass": [0.161954],
            "friction": [0.445619],
            "object_shape": [1.0],
        },
        2833.7745707836148,
    ),
    ("reach_squared", "test"): (
        {"goal": [0.582255, -0.085811, 0.332542], "payload_mass": [0.760124], "damping_scale": [1.178161]},
        4283.83953084476,
    ),
    ("reach_squared", "validation"): (
        {"goal": [0.59289, 0.19568, 0.248489], "payload_mass": [0.893207], "damping_scale": [1.408348]},
        4366.383672871401,
    ),
    ("reach_squared", "ood"): (
        {"goal": [0.556281, 0.238217, 0.15326], "payload_mass": [2.27404], "damping_scale": [2.647738]},
        7558.422660846876,
    ),
    ("reach_search", "test"): (
        {"goal": [0.422881, 0.097364, 0.321034], "payload_mass": [0.811592], "damping_scale": [0.536444]},
        4064.075581334943,
    ),
    ("reach_search", "validation"): (
        {"goal": [0.522994, -0.23616, 0.313789], "payload_mass": [1.169289], "damping_scale": [1.22649]},
        4201.427207174173,
    ),
    ("reach_search", "ood"): (
        {"goal": [0.374548, -0.127025, 0.332427], "payload_mass": [2.559103], "damping_scale": [0.608434]},
        7570.390522212262,
    ),
    ("grasp_uncalibrated", "test"): (
        {
            "camera_shift": [0.013402, -0.007117],
            "camera_turn": [-0.036622],
            "strength": [3.817408],
            "object_size": [0.019623, 0.017535, 0.02121],
            "object_mass": [0.378877],
            "friction": [0.383178],
            "object_shape": [1.0],
        },
        13262.430543116552,
    ),
    ("grasp_uncalibrated", "validation"): (
        {
            "camera_shift": [-0.013137, -0.018575],
            "camera_turn": [-0.029315],
            "strength": [3.388452],
            "object_size": [0.017743, 0.021124, 0.028923],
            "object_mass": [0.570313],
            "friction": [0.704076],
            "object_shape": [0.0],
        },
        13148.19472658714,
    ),
    # Of navigate the goal stands for all that its tasks hold; the sum is over the rest as well.
    ("navigate", "test"): ({"goal": [1.007339, 0.528548]}, 120924.77677469213),
    ("navigate", "validation"): ({"goal": [1.341618, -1.282012]}, 118632.44813734473),
    ("navigate", "ood"): ({"goal": [1.604563, -0.689563]}, 150160.89593437774),
    ("navigate_search", "test"): ({"goal": [0.086565, -1.758055]}, 116296.56746348091),
    ("ant_goal", "test"): (
        {"goal_angle": [0.898091], "goal_radius_squared": [5.751825], "mass_scale": [1.005179]},
        6052.40084185751,
    ),
    ("ant_goal", "ood"): (
        {"goal_angle": [1.142441], "goal_radius_squared": [11.780809], "mass_scale": [1.262944]},
        13854.961938477032,
    ),
    ("cheetah_dir", "test"): ({"direction": [1.0], "mass_scale": [1.006201]}, 1526.2360227771278),
    ("cheetah_dir", "ood"): ({"direction": [0.0], "mass_scale": [0.889567]}, 1426.470970037519),
    ("point2d", "test"): ({"goal": [-0.441482, -0.470557]}, -17.65387872537919),
    ("point2d", "ood"): ({"goal": [0.005538, 0.660389]}, -4.311853712318866),
    ("reach", "test"): (
        {"goal": [0.422881, 0.097364, 0.38663], "payload_mass": [0.811592], "damping_scale": [0.536444]},
        4113.955940534423,
    ),
    ("reach", "validation"): (
        {"goal": [0.522994, -0.23616, 0.305122], "payload_mass": [1.169289], "damping_scale": [1.22649]},
        4289.659075856842,
    ),
    ("reach", "ood"): (
        {"goal": [0.374548, -0.127025, 0.514799], "payload_mass": [2.559103], "damping_scale": [0.608434]},
        7683.6528965242105,
    ),
}


def checksum(tasks: Tasks) -> float:
    """A number that changes with any value and with the order."""
    table = torch.cat([tasks[name] for name in sorted(tasks.values)], -1).double()
    weights = torch.arange(1, table.numel() + 1, dtype=torch.float64).reshape(table.shape).sqrt()
    return float((weights * table).sum())


@pytest.mark.parametrize(("name", "split"), sorted(PUBLISHED))
def test_the_published_tasks_stay_what_they_are(name: str, split: str) -> None:
    tasks = registered(name).published(split)
    assert len(tasks) == 100
    first, total = PUBLISHED[name, split]
    described = tasks.describe(0)
    assert {key: described[key] for key in first} == first
    assert checksum(tasks) == pytest.approx(total, rel=1e-7)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", registry.names())
def test_published_tasks_depend_on_nothing(name: str, split: str) -> None:
    """Neither on the seed, nor on what was drawn before, nor on how many are asked for."""
    distribution = registered(name)
    hundred = distribution.published(split)
    other = TaskDistribution(distribution.parameters, seed=5, edition=distribution.edition)
    other.sample(7)
    longer = other.published(split, 150)
    assert len(longer) == 150
    for key, value in hundred.values.items():
        assert torch.equal(longer[key][:100], value)
        assert torch.equal(other.published(split, 3)[key], value[:3])
        assert not torch.equal(longer[key][100:], value[:50])


def test_another_edition_is_another_list() -> None:
    """Also where training ranges are changed, which makes a distribution of its own."""
    first = TaskDistribution({"goal": Range((0.0, 0.0), (1.0, 1.0))})
    second = TaskDistribution(first.parameters, edition=1)
    same = second.override({"goal": [[0, 0], [1, 1]]})
    goals = [each.published("test", 150)["goal"] for each in (first, second, same)]
    assert not torch.cdist(goals[0], goals[1]).eq(0).any()
    assert torch.equal(goals[1], goals[2])
    assert set(second.split_of(second.published("test"))) == {"test"}
