"""What an evaluation says of each gradient step and each episode of a trial."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metarl.evaluation.curve import curve, measures, table
from metarl.rollouts.episodes import Episodes

M, E, R, H = 2, 2, 3, 10
PERIOD = 0.1
# Control steps to success of both sequences in episodes 1, 2, 3: it searches, it searches less, it knows.
FIRST = torch.tensor([[[10, 6, 2], [8, 4, 2]], [[10, 10, 4], [10, 8, 4]]])


def episodes(first: Tensor = FIRST) -> Episodes:
    """Episodes whose success first came after so many control steps (M, E, R), and then stayed; at H it never came."""
    trial = first.shape[-1]
    nothing, came = torch.zeros(M, E, trial * H), first < H
    return Episodes(
        *(nothing[..., None],) * 2,
        *(nothing,) * 5,
        success_at_end=came,
        success_any_step=came,
        steps_to_success=first,
        returns=-first.float(),
        terms={},
        fed_the_reward=True,
        broken=torch.zeros_like(came),
        failures=0,
    )


def test_time_to_success_is_in_seconds_and_a_failure_takes_the_whole_horizon() -> None:
    found = measures(episodes(), PERIOD)["time_to_success"]
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.5, 0.2], [1.0, 0.9, 0.4]]).double())
    entries = curve([episodes()], PERIOD)
    assert [entry["time_to_success"]["mean"] for entry in entries] == pytest.approx([0.95, 0.7, 0.3])
    for entry in entries:
        low, high = entry["time_to_success"]["ci95"]
        assert 0.0 < low <= entry["time_to_success"]["mean"] <= high <= H * PERIOD


def test_a_trial_counts_its_episodes_from_one() -> None:
    entries = curve([episodes(), episodes()], PERIOD)
    assert [(entry["step"], entry["episode"]) for entry in entries] == [(s, r) for s in (0, 1) for r in (1, 2, 3)]
    assert [entry["episodes"] for entry in entries] == [0, 1, 2, 6, 7, 8]
    assert [entry["success"]["mean"] for entry in entries[:3]] == [0.25, 0.75, 1.0]
    assert not any("episode" in entry for entry in curve([episodes(FIRST[..., :1])], PERIOD))


def test_the_table_has_a_column_for_the_episode_in_trials_alone() -> None:
    head, *rows = table(curve([episodes()], PERIOD))
    assert head[:3] == ("step", "episode", "episodes seen") and head[-1] == "time to success (s)"
    assert [row[:3] for row in rows] == [("0", "1", "0"), ("0", "2", "1"), ("0", "3", "2")]
    assert [row[-1].split()[0] for row in rows] == ["0.95", "0.70", "0.30"]
    head, row = table(curve([episodes(FIRST[..., :1])], PERIOD))
    assert "episode" not in head and len(head) == len(row)


def test_a_part_of_the_tasks() -> None:
    (_, _, last) = curve([episodes()], PERIOD, torch.tensor([False, True]))
    assert last["time_to_success"]["mean"] == pytest.approx(0.4)
