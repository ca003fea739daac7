"""The example of PPO on reach: it trains, and prints what it reached."""

import re

import pytest

from experiments.sb3_reach import main


def test_a_few_iterations(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--timesteps", "200", "--num-envs", "2", "--tasks", "3"])
    found = re.fullmatch(r"success (\S+) on 3 held-out test tasks after 200 steps\n", capsys.readouterr().out)
    assert found and 0.0 <= float(found[1]) <= 1.0
