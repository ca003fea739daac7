"""Every number of an observation has a meaning and a unit, in the docstring of its class or of what it inherits."""

import pytest

from envs.core.described import Entry, action, documentation, entries
from envs.families.navigate import Navigate
from envs.families.navigate_search import NavigateSearch
from envs.registry import make, names
from tests.metarl.test_trials import Ending


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("name", names())
def test_every_number_of_every_family_is_described_once(name: str, visible: bool) -> None:
    env = make(name, 1, threads=1, **{"object_visible" if name.startswith("grasp") else "goal_visible": visible})
    said = entries(env)
    assert [i for entry in said for i in range(entry.first, entry.last + 1)] == list(range(env.observation_size))
    assert all(entry.meaning and entry.unit for entry in said)


def test_rows_of_a_class_come_before_those_of_what_it_inherits() -> None:
    inherited, own = entries(Navigate(1, threads=1, goal_visible=True)), entries(NavigateSearch(1, threads=1))
    assert own[:-2] == inherited[:-1] and inherited[-1].first == own[-2].first == 40
    assert own[-1] == Entry(42, 42, "1 while the dock is recognised, else 0", "1")


def test_the_whole_documentation_is_that_of_the_class_first() -> None:
    text = documentation(NavigateSearch(1, threads=1))
    assert 0 == text.index("Navigate, where") < text.index("A differential-drive robot")


@pytest.mark.parametrize("name", names())
def test_the_action_of_every_family_is_described(name: str) -> None:
    env = make(name, 1, threads=1)
    assert f"Action (A = {env.action_size}): " in documentation(env)
    text = action(env)
    assert text and "\n" not in text and "Reward" not in text and "Feedback" not in text


def test_an_action_that_goes_on_tells_of_what_it_goes_on_from() -> None:
    told = action(make("grasp_uncalibrated", 1, threads=1))
    assert told.startswith("as in grasp, and the force") and "fingers, -1 opens and 1 closes" in told
    assert action(Ending()) == ""


class Told(Ending):
    """| name | meaning | unit |
    |---|---|---|
    | 7 | no index | m |

    | index | meaning | unit | source |
    |-------|---------|------|--------|
    | 0-2   | here    | m    | qpos   |
    |       | or there|      |        |
    | 3     | how     | m/s  | qvel   |

    | index | meaning | unit |
    |-------|---------|------|
    | 0     | of an action | 1 |
    """


def test_the_first_table_by_index_is_the_observations_and_a_row_may_go_on() -> None:
    env = Told()
    env.observation_size = 4
    assert entries(env) == [Entry(0, 2, "here or there", "m"), Entry(3, 3, "how", "m/s")]


def test_an_environment_without_a_table_has_no_entries() -> None:
    assert entries(Ending()) == []
