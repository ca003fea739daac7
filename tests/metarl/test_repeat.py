"""The command lines that are shipped with a policy give the settings that it was trained with."""

import shlex
from pathlib import Path

import pytest

from metarl.assembly.repeat import commands
from metarl.config.composition import compose

OWN = """
from agents.settings import TransformerSettings
from metarl.config.algorithms import MAMLSettings


class Policy:
    class Settings(TransformerSettings):
        depth: int = 3


class Algorithm:
    class Settings(MAMLSettings):
        warmth: float = 0.5
"""


@pytest.mark.parametrize(
    "chosen",
    [
        ["env=reach", "algo=maml"],
        ["env=point2d", "algo=in_context", "agent.width=8", "algo.gamma=0.9", "env.tasks.goal_x=[0,0.5]"],
        ["env=reach", "algo=multitask", "agent=mlp", "agent.hidden=[8,8]", "algo.inner.max_grad_norm=2.0"],
        ["env=reach", "algo=own:Algorithm", "agent=own:Policy", "agent.depth=4", "algo.warmth=0.25"],
    ],
)
def test_the_settings_that_it_was_trained_with(
    chosen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    end = ["budget.iterations=3", "run_dir=runs/x"]
    settings = compose([*chosen, *end])
    (line,) = commands(settings, 3, Path("runs/x"))
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "metarl.train"] and words[-2:] == end
    assert compose(words[3:]) == settings
    assert sorted(words[3:-2]) == sorted(chosen), "what is as the choices have it is not said"
