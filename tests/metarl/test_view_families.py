"""Every family can be watched: its sliders, its menus and its buttons; and a robot beside one that is told the task."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from envs import registry
from metarl.agent import Agent
from metarl.assembly.opened import Run
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import ViewError
from metarl.live.knobs import Menu, Slider, knobs
from metarl.live.session import Session
from metarl.live.telling import describe
from metarl.run_folder import RunFolder
from metarl.training.trainer import Trainer
from tests.envs.families import MUJOCO_NAMES, oracle

SMALL = ("device=cpu", "threads=1", "env.horizon=4", "algo.tasks=1", "algo.episodes=2", "evaluate.episodes_per_step=2")
ATTENDS = ("algo=in_context", "agent=transformer", "agent.width=16", "agent.layers=1", "agent.heads=2")


def untrained(name: str, *words: str, learns: tuple[str, ...] = ATTENDS) -> Agent:
    """A tiny policy as it is before its first iteration, and no folder."""
    settings = compose([f"env={name}", *SMALL, *learns, *words], "train")
    assert isinstance(settings, TrainSettings)
    device = torch.device("cpu")
    trainer = Trainer(settings, device)
    learner, env = trainer.ready_learner(), registry.make(name, 1)
    folder = RunFolder(Path(f"runs/{name}{''.join(words)}"))
    return Agent(Run(folder, settings, 0, 0, trainer.policy, learner, 4, env.feedback, env.fed_the_reward, device))


@pytest.mark.parametrize("name", MUJOCO_NAMES)
def test_every_family_can_be_watched_and_changed(name: str) -> None:
    session = Session(untrained(name), seed=1)
    turned = list(knobs(session.env.distribution))
    assert turned, "nothing to turn"
    for knob in turned:
        session.advance()
        where, elapsed = session.env.qpos.clone(), session.elapsed
        if isinstance(knob, Slider):
            for value in (knob.low, knob.high):
                session.change(knob.name, value, knob.axis)
                assert session.values[knob.name][knob.axis] == pytest.approx(value)
        else:
            assert isinstance(knob, Menu)
            for number, choice in enumerate(knob.choices):
                session.change(knob.name, choice)
                assert session.values[knob.name] == number
        assert torch.equal(session.env.qpos, where) and session.elapsed == elapsed, "the robot was moved"
        session.advance()
        assert torch.isfinite(session.env.qpos).all()
    for split in session.splits:
        session.new_task(split)
        assert session.split == split
    session.advance()
    session.next_episode()
    assert session.elapsed == 0 and session.episodes == []
    while not session.episodes:
        session.advance()
    session.forget()
    assert session.trial[0] == 1 and session.attention is None
    session.gradient_step()
    session.advance()
    assert session.gradient_steps == 1 and session.agent.adapted
    assert session.attention is not None and "1 gradient step\n" in describe({name: session}).replace("  \n", "\n")


@pytest.mark.parametrize("name", [name for name in MUJOCO_NAMES if oracle(name)])
def test_an_oracle_acts_beside(name: str) -> None:
    """It is told the task, also when somebody changes it, so that its observation is longer."""
    told = [f"env.{option}=true" for option in oracle(name)]
    lead = Session(untrained(name), seed=1)
    beside = Session(untrained(name, *told), seed=1, beside=lead)
    assert beside._observation.size > lead._observation.size
    robots = {"A: blind": lead, "B: oracle": beside}
    assert any(_told(knob, beside) for knob in knobs(lead.env.distribution)), "the oracle is not told"
    for session in robots.values():
        session.advance()
        session.gradient_step()
        while not session.episodes:
            session.advance()
    lead.new_task("train")
    beside.present(lead.tasks)
    assert all(torch.equal(value, beside.values[key]) for key, value in lead.values.items())
    assert "**B: oracle**" in describe(robots)


def _told(knob: Slider | Menu, session: Session) -> bool:
    """Whether the next observation tells of it."""
    seen = []
    for value in knob.choices[:2] if isinstance(knob, Menu) else (knob.low, knob.high):
        session.change(knob.name, value, 0 if isinstance(knob, Menu) else knob.axis)
        seen.append(session._observation.copy())
    return bool((seen[0] != seen[1]).any())


def test_a_policy_without_memory_acts_beside() -> None:
    lead = Session(untrained("reach"))
    baseline = Session(untrained("reach", learns=("algo=multitask", "agent=mlp", "agent.hidden=[8]")), beside=lead)
    for session in (lead, baseline):
        while not session.episodes:
            session.advance()
    assert lead.attention is not None and baseline.attention is None


def test_one_that_sees_another_robot_is_refused() -> None:
    with pytest.raises(ViewError, match="cannot act beside"):
        Session(untrained("grasp"), beside=Session(untrained("reach")))
