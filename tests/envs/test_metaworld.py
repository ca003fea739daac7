"""Meta-World's tasks as batched environments; without the package these tests are skipped."""

from __future__ import annotations

from importlib import metadata, util

import mujoco
import numpy as np
import pytest
import torch

from envs import registry
from envs.core import described
from envs.core.models import physics_model
from envs.core.tasks import Tasks
from envs.errors import EnvsError, PackageError, TaskError, UnknownEnvironmentError
from envs.metaworld import package
from envs.metaworld.benchmarks import ML10_TEST, ML10_TRAIN, TASKS, metaworld
from envs.metaworld.kinematics import Chain
from envs.metaworld.sawyer import DOWN, SETTLING, SawyerTask, settle
from envs.metaworld.variations import COUNT
from tests.envs.metaworld_tasks import actions, needs_package, one


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match=r"pip install --no-deps metaworld==3\.1\.1"):
        registry.make("metaworld", 1)
    with pytest.raises(PackageError):
        registry.make("metaworld", 1, benchmark="ML10")


@needs_package
def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.0.0")
    with pytest.raises(PackageError, match=r"metaworld 2\.0\.0 is installed, and these tasks are those of 3\.1\.1"):
        registry.make("metaworld", 1)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(EnvsError, match="env.task=pick-plac: unknown: did you mean 'pick-place'"):
        registry.make("metaworld", 1, task="pick-plac")
    with pytest.raises(EnvsError, match=r"env.benchmark=ML45: unknown \(valid: ML1, ML10\)"):
        registry.make("metaworld", 1, benchmark="ML45")
    with pytest.raises(EnvsError, match="env.task=push: ML10 has tasks of its own"):
        registry.make("metaworld", 1, benchmark="ML10", task="push")
    with pytest.raises(UnknownEnvironmentError, match="did you mean 'metaworld'"):
        registry.make("metaworl", 1)


@needs_package
def test_the_name_of_the_package_is_a_name_as_well() -> None:
    assert type(metaworld(1, task="sweep-into-v3")) is TASKS["sweep-into"]


@needs_package
@pytest.mark.parametrize("task", TASKS)
def test_every_task_begins_alike_and_goes_on(task: str) -> None:
    env = one(task)
    first = env.reset()
    assert first.shape == (2, 39)
    assert torch.equal(first[:, :18], first[:, 18:36])
    assert not first[:, 36:].any()  # the goal is hidden
    assert torch.equal(env.reset(), first)
    before = first
    for action in actions(3, 2):
        step = env.step(action)
        assert torch.equal(step.observation[:, 18:36], before[:, :18])
        assert ((step.reward >= 0.0) & (step.reward <= 10.0)).all()
        assert not (step.terminated | step.failed).any()
        before = step.observation
    assert not torch.equal(before[:, :3], first[:, :3])


@needs_package
@pytest.mark.parametrize("task", ["reach", "peg-insert-side", "door-close"])
def test_what_is_observed_is_of_the_present_state(task: str) -> None:
    env = one(task)
    env.reset()
    for action in actions(4, 2):
        step = env.step(action)
    data = mujoco.MjData(env.model)
    for index in range(2):
        model = env.simulator.model_of(index)
        data.qpos[:] = env.qpos[index].numpy()
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(step.observation[index, :3], data.body("hand").xpos, atol=1e-6)
        fingers = [data.site(f"{side}EndEffector").xpos for side in ("left", "right")]
        np.testing.assert_allclose(env.tcp[index], np.mean(fingers, 0), atol=1e-9)


@needs_package
def test_a_reset_of_some_leaves_the_others_as_they_are() -> None:
    env = one("pick-place", 3)
    first = env.reset()
    for action in actions(5, 3):
        step = env.step(action)
    mask = torch.tensor([True, False, True])
    observation = env.reset(mask)
    assert torch.equal(observation[mask], first[mask])
    assert torch.equal(observation[~mask], step.observation[~mask])


@needs_package
def test_the_target_shows_only_to_an_oracle() -> None:
    env = one("push", goal_visible=True)
    assert torch.equal(env.reset()[:, 36:], env.target.float())
    assert torch.equal(env.target[:, :2].float(), env.assigned["goal"][:, :2])


@needs_package
@pytest.mark.parametrize("kind", [kind for kind in TASKS.values() if kind.fixture], ids=lambda kind: kind.task)
def test_the_hand_settles_alike_wherever_the_fixture_stands(kind: type[SawyerTask]) -> None:
    model = physics_model(package.load_scene(kind.scene))
    found = settle(kind.scene, kind.hand_start)
    for corner in (kind.low, kind.high):
        model.body(kind.fixture).pos = corner[-3:]
        data = mujoco.MjData(model)
        data.mocap_pos[:], data.mocap_quat[:], data.ctrl[:] = kind.hand_start, DOWN, (-1.0, 1.0)
        mujoco.mj_step(model, data, SETTLING)
        # The rest of the scene may turn by a little, as the button on its box
        np.testing.assert_allclose(data.qpos, found.qpos.numpy(), atol=1e-7)
        np.testing.assert_allclose(data.qvel, found.qvel.numpy(), atol=1e-5)


@needs_package
def test_fixtures_stand_where_the_variation_says() -> None:
    env = one("drawer-open")
    env.reset()
    for index in range(2):
        np.testing.assert_allclose(env.simulator.model_of(index).body("drawer").pos, env.assigned["placement"][index])
    assert not torch.equal(env.assigned["placement"][0], env.assigned["placement"][1])
    assert torch.equal(env.position[:, 0].float(), env.assigned["placement"][:, 0])


@needs_package
def test_the_weld_is_the_packages() -> None:
    env = one("reach")
    assert env.model.eq_data[0].tolist() == package.WELD
    assert Chain(env.model, "hand").addresses.tolist() == list(range(7))


@needs_package
def test_splits_hold_fifty_variations_of_each_task_that_differ() -> None:
    distribution = metaworld(1, benchmark="ML10").distribution
    for split, kinds in (("train", ML10_TRAIN), ("test", ML10_TEST), ("validation", ML10_TRAIN)):
        tasks = distribution.published(split, COUNT * len(kinds))
        names = [list(TASKS)[int(number)] for number in tasks["task"][:, 0]]
        assert names == [kind.task for kind in kinds] * COUNT
        assert distribution.split_of(tasks) == [split] * len(tasks)
        assert len(torch.cat([tasks["placement"], tasks["goal"]], -1).unique(dim=0)) > 40 * len(kinds)
        with pytest.raises(TaskError, match=f"has 1 to {len(tasks)} tasks"):
            distribution.published(split, len(tasks) + 1)
    with pytest.raises(TaskError, match=r"has no split 'ood' \(valid: train, test, validation\)"):
        distribution.sample(2, "ood")


@needs_package
def test_draws_are_divided_among_the_tasks_and_use_every_variation_before_one_again() -> None:
    distribution = metaworld(1, benchmark="ML10").distribution
    tasks = distribution.sample(25)
    assert sorted(tasks["task"][:, 0].long().bincount(minlength=10).tolist()) == [2] * 5 + [3] * 5
    assert len({int(distribution.sample(1)["task"]) for _ in range(100)}) == 10, "whatever fills the last round"
    assert not torch.equal(distribution.sample(25)["placement"], tasks["placement"])
    alone = metaworld(1, task="push").distribution
    assert len(alone.sample(COUNT)["goal"].unique(dim=0)) == COUNT
    assert len(alone.sample(COUNT + 5)["goal"]) == COUNT + 5


@needs_package
@pytest.mark.parametrize(("benchmark", "kinds"), [("ML1", (TASKS["push"],)), ("ML10", ML10_TRAIN)])
def test_recombined_tasks_have_the_goal_of_another_variation(benchmark: str, kinds: tuple[type[SawyerTask]]) -> None:
    task = "push" if benchmark == "ML1" else None
    distribution = metaworld(1, benchmark=benchmark, task=task, recombine=True).distribution
    listed, count = distribution.published("train", COUNT * len(kinds)), 20 * len(kinds)

    def of(tasks: Tasks, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(tasks[name][number :: len(kinds)] for name in ("placement", "goal"))  # type: ignore[return-value]

    drawn = distribution.sample(count)
    for number, kind in enumerate(kinds):
        (placements, goals), (own_placements, own_goals) = of(drawn, number), of(listed, number)
        together = torch.cat([placements, goals], -1)
        assert (placements[:, None] == own_placements).all(-1).any(-1).all()
        assert (goals[:, None] == own_goals).all(-1).any(-1).all()
        assert not any(kind.too_near(variation[: len(kind.low)]) for variation in together.double().numpy())
        old = (together[:, None] == torch.cat([own_placements, own_goals], -1)).all(-1).any(-1)
        assert len(kind.low) == 3 or old.float().mean() < 0.3
    held_out = distribution.sample(len(kinds), "validation")
    assert distribution.split_of(held_out) == ["validation"] * len(kinds)


@needs_package
@pytest.mark.parametrize("benchmark", ["ML1", "ML10"])
def test_feedback_is_what_is_asked_for(benchmark: str) -> None:
    env = registry.make("metaworld", 2, benchmark=benchmark, threads=1, feedback="sparse")
    env.set_tasks(env.distribution.published("train", 2))
    env.reset()
    step = env.step(torch.zeros(2, 4))
    assert torch.equal(step.feedback, step.success.float())
    assert (step.reward > 0.0).any()


@needs_package
@pytest.mark.parametrize("benchmark", ["ML1", "ML10"])
def test_every_number_is_described_once(benchmark: str) -> None:
    env = registry.make("metaworld", 2, benchmark=benchmark, threads=1)
    said = described.entries(env)
    assert [i for entry in said for i in range(entry.first, entry.last + 1)] == list(range(env.observation_size))
    assert described.action(env).startswith("displacement of the mocap body")


@needs_package
@pytest.mark.parametrize("benchmark", ["ML1", "ML10"])
def test_of_an_action_that_is_held_the_logarithms_are_summed(benchmark: str) -> None:
    env, held = (
        registry.make("metaworld", 3, benchmark=benchmark, threads=1, feedback=felt, bonus=2.0, action_repeat=n)
        for felt, n in (("reward", 1), ("log_reward", 5))
    )
    for each in (env, held):
        each.set_tasks(each.distribution.published("train", 3))
        each.reset()
    action = torch.full((3, 4), 0.5)
    expected = -sum((1.01 - env.step(action).feedback / 10.0).log() for _ in range(5))
    torch.testing.assert_close(held.step(action).feedback, expected)


@needs_package
@pytest.mark.parametrize("benchmark", ["ML1", "ML10"])
def test_an_action_is_held(benchmark: str) -> None:
    once, held = (registry.make("metaworld", 4, benchmark=benchmark, threads=1, action_repeat=n) for n in (1, 5))
    assert (held.horizon, held.step_period) == (100, pytest.approx(5 * once.control_period))
    for env in (once, held):
        env.set_tasks(env.distribution.published("train", 4))
        env.reset()
    action = torch.linspace(-1.0, 1.0, 16).view(4, 4)
    for _ in range(3):
        parts, whole = [once.step(action) for _ in range(5)], held.step(action)
        assert torch.equal(whole.observation, parts[-1].observation)
        torch.testing.assert_close(whole.reward, sum(part.reward for part in parts))


@needs_package
@pytest.mark.parametrize("benchmark", ["ML1", "ML10"])
def test_the_bonus_is_a_reward_that_nobody_is_fed(benchmark: str) -> None:
    plain, paid = (registry.make("metaworld", 3, benchmark=benchmark, threads=1, bonus=x) for x in (0.0, 4.0))
    for env in (plain, paid):
        env.set_tasks(env.distribution.published("train", 3))
        env.reset()
    assert plain.fed_the_reward and not paid.fed_the_reward
    before, after = plain.step(torch.zeros(3, 4)), paid.step(torch.zeros(3, 4))
    assert set(before.terms) == {"reward"} and set(after.terms) == {"reward", "near"}
    assert torch.equal(after.terms["reward"], before.reward) and torch.equal(after.feedback, before.reward)
    torch.testing.assert_close(after.reward, before.reward + after.terms["near"])
    first = paid if benchmark == "ML1" else paid.members[0].env
    expected = 4.0 * (1.0 - torch.tanh(first.missing / first.threshold))
    torch.testing.assert_close(after.terms["near"][: len(expected)].double(), expected, atol=1e-6, rtol=0.0)
