"""`metarl.check_env`: what it finds in an environment before a training does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import metarl
from envs import registry
from envs.check import _play, _same, _speed
from envs.core.tasks import SPLITS
from tests.metarl.own import POINT, cart

Write = Callable[[str], str]
OBSERVE = "return torch.cat([self.qpos, self.qvel], -1).float()"


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs import check

    monkeypatch.setattr(check, "SECONDS", 0.0)
    monkeypatch.setattr(check, "_speed", lambda env: check.Finding("speed", "ok", "fast"))


def wrong(place: str, **options: object) -> list[str]:
    """The findings that are not ok, as their lines begin."""
    return [str(finding) for finding in metarl.check_env(place, **options) if finding.verdict != "ok"]


def test_a_good_environment(written: Write, capsys: pytest.CaptureFixture[str]) -> None:
    found = metarl.check_env(f"{written(cart())}:Cart", threads=1)
    assert {finding.verdict for finding in found} == {"ok"}
    checks = ["contract", "memory", "physics", "sensors", "determinism", "task", "task"]
    assert [finding.check for finding in found] == [*checks, *(f"split {split}" for split in SPLITS), "speed"]
    assert capsys.readouterr().out.splitlines() == [str(finding) for finding in found]
    assert wrong(f"{written(POINT)}:Point", horizon=9)[0].startswith("look  split ood: ")


@pytest.mark.parametrize("name", ["reach", "point2d", "ant_dir"])
def test_families(name: str) -> None:
    assert wrong(name, horizon=12) == []


def test_the_speed(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("envs.check.SECONDS", 0.01)
    env = registry.make("point2d", 8)
    env.set_tasks(env.distribution.published("train", 8))
    assert _speed(env).text.endswith("environment steps a second, with 8 simulations")


BUFFER = """self.buffers = getattr(self, "buffers", torch.zeros(3, self.num_simulations, 2))
        buffer = self.buffers[int(self.elapsed[0]) % 3]
        buffer.copy_(torch.cat([self.qpos, self.qvel], -1))
        return buffer"""


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ((OBSERVE, "return self.qpos"), "fail  contract: Cart: observe() is (8, 1) float64"),
        ((OBSERVE, BUFFER), "fail  memory: a later step overwrites observation"),
        (
            (OBSERVE, "return torch.cat([self.qpos, 0 * self.qvel + 3], -1).float()"),
            "look  sensors: observation entries 1",
        ),
        (("0.05 * self.noise(", "0.05 * torch.randn("), "fail  determinism: one seed gave two different episodes"),
        (('{"body_mass": body_mass, "body_inertia": inertia}', "{}"), "fail  task: 'mass' changes nothing"),
        ((", ood=[(1.0, 1.2)]", ""), "look  split ood: split 'ood': no parameter has values"),
    ],
)
def test_what_is_wrong(written: Write, change: tuple[str, str], line: str) -> None:
    found = wrong(f"{written(cart(change))}:Cart", threads=1)
    assert any(each.startswith(line) for each in found), found


def test_a_split_that_an_environment_cannot_draw(written: Write) -> None:
    own = 'def sample_tasks(self, n, split):\n        ["train", "test", "ood"].index(split)'
    divided = POINT.replace("def sample_tasks(self, n):", own)
    found = wrong(f"{written(divided)}:Point", horizon=9)
    assert len(found) == 1 and found[0].startswith("fail  split validation: ") and "ValueError" in found[0]


def test_a_module_that_is_not_there() -> None:
    [line] = wrong("nowhere.at_all:Cart")
    assert line.startswith("fail  contract: nowhere.at_all:Cart: No module named 'nowhere'")


def test_what_a_trial_remembers_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.check._actions", lambda env: torch.tensor([1.0, 0.5]).expand(35, 8, 2))
    env = registry.make("navigate_search", 8, threads=1)
    tasks = env.distribution.published("train", 8)
    assert _same(_play(env, tasks), _play(env, tasks))
