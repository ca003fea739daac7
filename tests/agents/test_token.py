"""The layout of a token: what stands where, put together and taken apart."""

from __future__ import annotations

import pytest
import torch

from agents.token import TokenLayout

LAYOUT = TokenLayout(observation_size=3, action_size=2)


def test_a_token_holds_what_was_seen_done_and_earned_in_this_order() -> None:
    observation, action, reward = (
        torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
        torch.tensor([[7.0, 8], [9, 10]]),
        torch.ones(2),
    )
    token = LAYOUT.join(observation, action, 5 * reward, True)
    assert token.tolist() == [[1, 2, 3, 7, 8, 5, 1], [4, 5, 6, 9, 10, 5, 1]]
    assert LAYOUT.join(observation, action, reward, False)[:, -1].tolist() == [0, 0]
    assert token.shape[-1] == LAYOUT.size
    found = {name: token[0, part].tolist() for name, part in LAYOUT.parts.items()}
    assert found == {
        "observation": [1, 2, 3],
        "previous action": [7, 8],
        "previous feedback": [5],
        "first flag": [1],
        "task": [],
    }
    assert torch.equal(LAYOUT.observation(token), observation)
    assert LAYOUT.without_history(token).tolist() == [[1, 2, 3, 0, 0, 0, 0], [4, 5, 6, 0, 0, 0, 0]]


def test_observation_and_reward_are_normalised() -> None:
    assert LAYOUT.normalised().tolist() == [1, 1, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (0, "observation entry 0"),
        (2, "observation entry 2"),
        (3, "previous action"),
        (4, "previous action"),
        (5, "previous feedback"),
        (6, "first flag"),
    ],
)
def test_entries_have_names(entry: int, words: str) -> None:
    assert LAYOUT.describe(entry) == words


def test_sizes_can_be_read_off_a_token() -> None:
    assert TokenLayout.of_size(7, 2) == LAYOUT
