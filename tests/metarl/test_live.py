"""A watched session: tasks that change in the midst of an episode, memory, gradient steps, and what is counted."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import torch

import metarl
from envs.core.tasks import Categories, Range, TaskDistribution
from envs.errors import TaskError
from envs.metaworld.benchmarks import ML10_TEST, ML10_TRAIN
from envs.metaworld.mixed import MixedTasks
from metarl.agent import Agent
from metarl.config.composition import compose
from metarl.errors import ConfigError, RunWarning, ViewError
from metarl.live.knobs import Menu, Slider, knobs
from metarl.live.serving import check_port, view_run
from metarl.live.session import Played, Session
from metarl.live.telling import describe


@pytest.fixture(scope="module")
def agents() -> dict[str, Agent]:
    """Policies that come with the package, with short gradient steps."""
    found = {name: metarl.load(name, "cpu") for name in ("reach_search", "cheetah_dir-maml")}
    for name, agent in found.items():
        settings = agent.run.settings
        short = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"episodes_per_step": 2})})
        found[name] = Agent(replace(agent.run, settings=short))
    return found


def to_the_end(session: Session) -> None:
    count = len(session.episodes)
    while len(session.episodes) == count:
        session.advance()


def test_knobs_show_what_was_trained_on_and_what_was_not() -> None:
    distribution = TaskDistribution(
        {
            "mass": Range(0.5, 2.0, ood=[(2.0, 3.0)], unit="kg"),
            "goal": Range((0.0, -1.0, 5.0), (1.0, 1.0, 5.0), ood=[((0.0, -2.0, 5.0), (1.0, -1.0, 5.0))]),
            "shape": Categories(("box", "ball"), ood=("cone",)),
        }
    )
    mass, first, second, shape = knobs(distribution)
    assert isinstance(mass, Slider) and isinstance(first, Slider) and isinstance(second, Slider)
    assert (mass.label, mass.low, mass.high, mass.trained, mass.ood) == (
        "mass (kg)",
        0.5,
        3.0,
        (0.5, 2.0),
        [(2.0, 3.0)],
    )
    assert mass.hint == "trained on 0.5 to 2, ood 2 to 3 kg"
    assert (first.label, first.ood) == ("goal 1", [])
    assert (second.label, second.low, second.ood) == ("goal 2", -2.0, [(-2.0, -1.0)])
    assert shape == Menu("shape", ("box", "ball", "cone"), ("cone",))


def test_the_robot_acts_as_in_a_loop_of_one_s_own(agents: dict[str, Agent]) -> None:
    """The same actions as a controller, over a whole trial and into the next."""
    agent = agents["reach_search"]
    session, other = Session(agent, "test", 3), Session(agent, "test", 3)
    robot, env, feedback = agent.controller(), other.env, 0.0
    env.generator.set_state(session.env.generator.get_state())
    for episode in range(4):
        observation = other._observation if episode == 0 else env.reset()[0].numpy()
        robot.reset()
        total = 0.0
        for _ in range(env.horizon):
            session.advance()
            step = env.step(torch.from_numpy(robot.act(observation, feedback))[None])
            observation, feedback = step.observation[0].numpy(), float(step.feedback[0])
            total += feedback
            assert torch.equal(session.env.qpos, env.qpos)
        assert session.episodes[-1].feedback == total
        assert session.episodes[-1].success == bool(step.success[0])
        assert session.episodes[-1].trial == episode + 1


def test_a_weight_changes_at_once_and_the_robot_stays(agents: dict[str, Agent]) -> None:
    session = Session(agents["reach_search"])
    to_the_end(session)
    for _ in range(5):
        session.advance()
    before = {name: session.env.simulator.field(name).clone() for name in ("qpos", "qvel", "ctrl", "xfrc_applied")}
    memory, marker = session._controller.memory, session.env.simulator.field("mocap_pos").clone()
    session.change("payload_mass", 3.0)
    after = {name: session.env.simulator.field(name) for name in before}
    assert all(torch.equal(before[name], after[name]) for name in ("qpos", "qvel", "ctrl"))
    assert session.env.simulator.model_of(0).body_mass.max() >= 3.0
    assert session.values["payload_mass"] == 3.0 and session.beyond == ["payload_mass"] and session.split == "ood"
    assert torch.equal(marker, session.env.simulator.field("mocap_pos"))
    assert session.elapsed == 5 and session._controller.memory is memory, "the robot was told"
    assert session.episodes == [], "those were of another task"
    session.change("goal", 0.6, axis=0)
    assert session.env.simulator.field("mocap_pos")[0, 0, 0] == pytest.approx(0.6), "the goal's marker has not moved"
    session.advance()
    assert session.elapsed == 6


def test_what_can_be_had_is_what_is_told() -> None:
    session = Session(metarl.load("navigate_search", "cpu"))
    session.change("goal", 1.0, axis=0)
    for asked, there in ((0.02, 0.35), (-0.02, -0.35), (-0.5, -0.5)):
        session.change("goal", asked, axis=1)
        assert session.values["goal"].tolist() == pytest.approx([1.0, there]), "the wall is in the way"
    session.change("obstacle_count", 7.6)
    assert session.values["obstacle_count"] == 8


def test_what_was_reached_on_another_task_does_not_count(agents: dict[str, Agent]) -> None:
    session = Session(agents["reach_search"])
    while not session.success:
        session.advance()
    assert session.feedback > 0.0
    session.change("goal", float(session.values["goal"][0]) + 0.3)
    assert not session.success and session.feedback == 0.0


def test_a_category_is_changed_by_its_name(agents: dict[str, Agent]) -> None:
    session = Session(agents["cheetah_dir-maml"])
    (menu,) = (knob for knob in knobs(session.env.distribution) if isinstance(knob, Menu))
    for number, choice in enumerate(menu.choices):
        session.change(menu.name, choice)
        assert session.values[menu.name] == number
    with pytest.raises(TaskError, match="direction=up"):
        session.change("direction", "up")
    with pytest.raises(TaskError, match="there is no colour"):
        session.change("colour", 1.0)


def test_memory_episodes_and_tasks(agents: dict[str, Agent]) -> None:
    session = Session(agents["reach_search"])
    to_the_end(session)
    assert session.trial == (1, 3)
    session.advance()
    assert session.trial == (2, 3)
    session.next_episode()
    assert (session.elapsed, len(session.episodes), session.trial) == (0, 1, (3, 3)), "an unfinished one counts"
    session.advance()
    session.forget()
    assert session.trial == (1, 3) and session._controller.memory is None and len(session.episodes) == 1
    for split in session.splits:
        old = dict(session.values)
        session.new_task(split)
        assert session.split == split and session.episodes == [] and session._controller.memory is None
        assert any(not torch.equal(old[name], value) for name, value in session.values.items())
    with pytest.raises(TaskError):
        session.new_task("elsewhere")


def test_new_tasks_follow_from_the_seed(agents: dict[str, Agent]) -> None:
    def drawn(seed: int) -> float:
        session = Session(agents["cheetah_dir-maml"], seed=seed)
        session.new_task("train")
        return float(session.values["mass_scale"])

    assert drawn(0) == drawn(0) != drawn(1)


def test_gradient_steps_and_back(agents: dict[str, Agent]) -> None:
    agent = agents["cheetah_dir-maml"]
    session = Session(agent)
    session.advance()
    where = dict(session.values)
    session.gradient_step()
    assert session.gradient_steps == 1 and session.agent.adapted and session.elapsed == 0
    first = {name: value.clone() for name, value in session.agent.adapted.items()}
    session.gradient_step()
    assert any(not torch.equal(first[name], value) for name, value in session.agent.adapted.items())
    assert all(torch.equal(where[name], value) for name, value in session.values.items())
    assert agent.adapted is None
    to_the_end(session)
    assert [played.gradient_steps for played in session.episodes] == [2]
    session.new_task("train")
    assert session.agent.adapted is None and session.gradient_steps == 0 and session.episodes == []
    session.agent = replace(session.agent, adapted=first)
    session.as_trained()
    assert session.agent.adapted is None


def test_two_policies_on_the_same_task(agents: dict[str, Agent]) -> None:
    """They begin every episode alike, whatever they do in it, and are told of the same changes."""
    agent = agents["cheetah_dir-maml"]
    other = Agent(replace(agent.run), {name: 0.5 * p.detach()[None] for name, p in agent.run.policy.named_parameters()})
    lead = Session(agent, "ood", 4, seed=3)
    beside = Session(other, seed=3, beside=lead)
    for scale in (1.2, 0.8):
        assert torch.equal(lead.env.qpos, beside.env.qpos) and not lead.env.qpos.eq(0).all()
        for session in (lead, beside):
            session.advance()
            session.change("mass_scale", scale)
        assert not torch.equal(lead.env.qpos, beside.env.qpos), "both act alike"
        assert all(torch.equal(value, beside.values[name]) for name, value in lead.values.items())
        lead.next_episode()
        beside.next_episode()
    lead.new_task("train")
    beside.present(lead.tasks)
    assert all(torch.equal(value, beside.values[name]) for name, value in lead.values.items())
    assert beside.agent.adapted is other.adapted


def test_another_robot_cannot_act_beside(agents: dict[str, Agent]) -> None:
    lead = Session(agents["cheetah_dir-maml"])
    with pytest.raises(ViewError, match="cannot act beside .*cheetah_dir-maml: reach_search has other tasks"):
        Session(agents["reach_search"], beside=lead)


def test_what_it_looks_at_sums_to_one(agents: dict[str, Agent]) -> None:
    session = Session(agents["reach_search"])
    assert session.attention is None
    for _ in range(3):
        session.advance()
    assert session.attention is not None and session.attention.shape == (3,)
    assert session.attention.sum() == pytest.approx(1.0, abs=1e-5)
    session.forget()
    assert session.attention is None


def test_a_page_tells_of_both(agents: dict[str, Agent]) -> None:
    lead = Session(agents["cheetah_dir-maml"])
    robots = {"A: runs/a": lead, "B: runs/b": Session(agents["cheetah_dir-maml"], beside=lead)}
    told = (Played(2.5, True, 10, 0, 1), Played(-1.0, False, 10, 1, 1), Played(0.0, False, 3, 1, 1, failed=True))
    lead.episodes, robots["B: runs/b"].episodes = [*told], [told[1]]
    lines = describe(robots).splitlines()
    assert {"**A: runs/a**  ", "**B: runs/b**  ", "on this task: 3 episodes, 0 gradient steps  "} <= set(lines)
    assert lines[-5:] == [
        "|-|-|-|-|-|-|",
        "| 1 | A | 1 | 0 | 2.5 | yes |",
        "| 1 | B | 1 | 1 | -1 | no |",
        "| 2 | A | 1 | 1 | -1 | no |",
        "| 3 | A | 1 | 1 | 0 | physics failed |",
    ]
    alone = describe({"runs/a": lead}).splitlines()
    assert alone[-5:-3] == ["| episode | in memory | after steps | feedback | success |", "|-|-|-|-|-|"]


def test_the_pace_is_that_of_the_robot(agents: dict[str, Agent]) -> None:
    session = Session(agents["reach_search"])
    session.speed = 2.0
    assert session.pace == session.env.control_period / 2


def test_what_has_no_model_is_refused(agents: dict[str, Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.registry import make

    run = agents["reach_search"].run
    monkeypatch.setattr(type(run), "environment", lambda *_: make("point2d", 1))
    with pytest.raises(ViewError, match="point2d: has no MuJoCo model that a page could show"):
        Session(Agent(run))
    # Its package need not be there: nothing of it is made.
    several = MixedTasks.__new__(MixedTasks)
    several.kinds = [*ML10_TRAIN, *ML10_TEST]
    monkeypatch.setattr(type(run), "environment", lambda *_: several)
    with pytest.raises(
        ViewError, match=r"^metaworld: its 15 tasks have a MuJoCo model each, .* env\.benchmark=ML1 can"
    ):
        Session(Agent(run))


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ViewError, match=f"port={port} is in use: choose another"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match="host=no.such.host"):
        check_port("no.such.host.invalid", port)


def test_without_viser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    with pytest.raises(ViewError, match=r"viser is missing: in your clone of metarl, pip install -e '\.\[view\]'"):
        view_run(compose(["run=pretrained/reach"], "view"))


def test_another_host_than_this_machine_s_own_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mjviser")

    def stop(*_: object) -> None:
        raise ViewError("far enough")

    monkeypatch.setattr("metarl.live.serving.load", stop)
    with pytest.raises(ViewError, match="far enough"), pytest.warns(RunWarning, match="host=0.0.0.0: whoever reaches"):
        view_run(compose(["run=pretrained/reach", "host=0.0.0.0", f"port={free_port()}"], "view"))
    with pytest.raises(ViewError, match="far enough"):  # a warning would be an error here
        view_run(compose(["run=pretrained/reach", f"port={free_port()}"], "view"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
