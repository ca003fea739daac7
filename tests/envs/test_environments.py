"""Every registered environment keeps the contract; and what each family promises of its own."""

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs import registry
from envs.core.environment import Environment, MujocoEnvironment, Step
from envs.core.tasks import SPLITS, Tasks
from envs.errors import EnvsError, TaskError, UnknownEnvironmentError
from envs.families.point2d import Point2d
from envs.families.reach import DELTA, Reach
from tests.envs.families import oracle

COUNT = 4


def made(name: str, count: int = COUNT, seed: int = 0, **options: object) -> Environment:
    """An environment with a task of its own in each simulation."""
    env = registry.make(name, count, seed=seed, threads=1, **options)
    env.set_tasks(env.distribution.published("train", count))
    return env


def random_actions(env: Environment, steps: int, scale: float = 1.0) -> Tensor:
    shape = (steps, env.num_simulations, env.action_size)
    return scale * (2 * torch.rand(shape, generator=torch.Generator().manual_seed(2)) - 1)


def play(env: Environment, actions: Tensor) -> list[Step]:
    """Steps of consecutive episodes; all simulations begin anew together at the horizon."""
    steps = []
    for index, action in enumerate(actions):
        if index % env.horizon == 0:
            env.reset()
        steps.append(env.step(action))
    return steps


def reach_tasks(goal: Tensor) -> Tasks:
    ones = torch.ones(len(goal), 1)
    return Tasks({"goal": goal, "payload_mass": 0.5 * ones, "damping_scale": ones})


ORACLES = {name: options for name in registry.names() if (options := oracle(name))}
HIDDEN_AND_VISIBLE = [(name, {}) for name in registry.names()] + list(ORACLES.items())


@pytest.mark.parametrize(("name", "options"), HIDDEN_AND_VISIBLE)
def test_shapes_types_and_finite_values(name: str, options: dict[str, Any]) -> None:
    env = made(name, **options)
    assert env.name == name
    assert env.success_criterion
    assert env.control_period > 0 and env.horizon > 0
    first = env.reset()
    assert first.shape == (COUNT, env.observation_size) and first.dtype == torch.float32
    for step in play(env, random_actions(env, 200)):
        assert step.observation.shape == (COUNT, env.observation_size) and step.observation.dtype == torch.float32
        assert step.reward.shape == (COUNT,) and step.reward.dtype == torch.float32
        for flag in (step.success, step.terminated, step.failed):
            assert flag.shape == (COUNT,) and flag.dtype == torch.bool
        for term in step.terms.values():
            assert term.shape == (COUNT,) and term.dtype == torch.float32
        assert torch.isfinite(step.observation).all() and torch.isfinite(step.reward).all()
        assert not step.failed.any()
        assert torch.allclose(step.reward, torch.stack([*step.terms.values()]).sum(0), atol=1e-6)


@pytest.mark.parametrize("name", registry.names())
def test_the_seed_decides_everything(name: str) -> None:
    one, two, other = made(name), made(name), made(name, seed=1)
    actions = random_actions(one, one.horizon + 20)
    for a, b in zip(play(one, actions), play(two, actions), strict=True):
        assert torch.equal(a.observation, b.observation) and torch.equal(a.reward, b.reward)
    assert not torch.equal(one.noise(4), other.noise(4))
    if isinstance(one, MujocoEnvironment):
        assert not torch.equal(one.reset(), one.reset())


@pytest.mark.parametrize("name", registry.names())
def test_actions_are_clipped(name: str) -> None:
    one, two = made(name), made(name)
    actions = random_actions(one, 20, scale=3.0)
    for a, b in zip(play(one, actions), play(two, actions.clamp(-1, 1)), strict=True):
        assert torch.equal(a.observation, b.observation) and torch.equal(a.reward, b.reward)


@pytest.mark.parametrize("name", registry.names())
def test_what_a_step_returned_is_never_overwritten(name: str) -> None:
    env = made(name)
    steps = play(env, random_actions(env, 2))
    kept = [tensor for step in steps for tensor in (step.observation, step.reward, step.success, *step.terms.values())]
    copies = [tensor.clone() for tensor in kept]
    play(env, random_actions(env, 10))
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("name", registry.names())
def test_tasks_are_shared_out_in_blocks(name: str) -> None:
    env = registry.make(name, 6, threads=1)
    tasks = env.distribution.published("train", 3)
    env.set_tasks(tasks)
    for parameter, value in tasks.values.items():
        assert torch.equal(env.assigned[parameter], value[[0, 0, 1, 1, 2, 2]])
    assert env.task_of(3) == f"task 1 {tasks.describe(1)}"


@pytest.mark.parametrize("name", registry.names())
def test_wrong_tasks_are_refused(name: str) -> None:
    env = registry.make(name, 4, threads=1)
    with pytest.raises(TaskError, match="3 tasks do not divide 4 simulations"):
        env.set_tasks(env.distribution.published("train", 3))
    missing = ", ".join(sorted(env.distribution.parameters))
    with pytest.raises(TaskError, match=f"the tasks lack the parameters {missing}"):
        env.set_tasks(Tasks({"colour": torch.zeros(1, 1)}))
    with pytest.raises(TaskError, match="num_simulations must be at least 1"):
        registry.make(name, 0)


@pytest.mark.parametrize("name", registry.names())
def test_reset_without_tasks_is_refused(name: str) -> None:
    with pytest.raises(TaskError, match="set_tasks before reset"):
        registry.make(name, 2, threads=1).reset()


@pytest.mark.parametrize("name", ORACLES)
def test_what_an_oracle_sees_is_at_the_end_of_the_observation(name: str) -> None:
    hidden, visible = made(name), made(name, **ORACLES[name])
    size = hidden.observation_size
    first, second = hidden.reset(), visible.reset()
    assert torch.equal(first, second[:, :size])
    assert torch.equal(second[:, size:], visible.privileged())
    visible.set_tasks(visible.distribution.published("test", COUNT))
    assert not torch.equal(visible.reset()[:, size:], second[:, size:])


# The registry


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownEnvironmentError, match=r"unknown environment 'raech': did you mean 'reach'\?"):
        registry.make("raech", 1)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(EnvsError, match="environment 'reach': .*'wings'"):
        registry.make("reach", 1, wings=2)


def test_a_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    registry.register("another", lambda count, **options: Point2d(count))
    assert registry.make("another", 2).num_simulations == 2
    with pytest.raises(EnvsError, match="'another' is registered already"):
        registry.register("another", lambda count, **options: Point2d(count))


# Reach


class Arm:
    """The arm's kinematics, for a controller that knows the goal."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self.site = model.site("grip").id

    def towards(self, observation: np.ndarray) -> np.ndarray:
        """The action (7,) of damped least squares on the targets' position, from an observation (27,) with the goal."""
        self.data.qpos[:] = observation[:7] + observation[14:21]
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        jacobian = np.zeros((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian, None, self.site)
        error = observation[24:27] - observation[21:24]
        change = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-3 * np.eye(3), error)
        # Scaled as a whole: clipping each joint by itself would bend the way to the goal.
        return change / max(DELTA, np.abs(change).max())


@pytest.mark.parametrize("split", SPLITS)
def test_a_controller_that_sees_the_goal_solves_reach(split: str) -> None:
    env = Reach(100, threads=2, goal_visible=True)
    env.set_tasks(env.distribution.published(split))
    observation, arm = env.reset(), Arm(env.model)
    for _ in range(env.horizon):
        action = np.stack([arm.towards(row) for row in observation.double().numpy()])
        step = env.step(torch.from_numpy(action).float())
        observation = step.observation
    assert step.success.float().mean() >= 0.95
    assert torch.equal(observation[:, 24:], env.assigned["goal"])


def test_an_arm_that_does_nothing_does_not_solve_reach() -> None:
    env = Reach(100, threads=2)
    env.set_tasks(env.distribution.published("test"))
    steps = play(env, torch.zeros(env.horizon, 100, 7))
    assert steps[-1].success.float().mean() < 0.05


def test_reach_succeeds_after_five_steps_inside_and_only_while_inside() -> None:
    env = Reach(2, threads=1)
    env.set_tasks(reach_tasks(torch.tensor([[0.5, 0.0, 0.3], [0.5, 0.0, 0.3]])))
    env.generator.manual_seed(6)
    grip = env.reset()[:, 21:24]
    env.set_tasks(reach_tasks(grip + torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.055, 0.0]])))  # inside; 5 mm outside
    env.generator.manual_seed(6)
    env.reset()
    still = torch.zeros(2, 7)
    assert [env.step(still).success.tolist() for _ in range(6)] == [[False, False]] * 4 + [[True, False]] * 2
    env.reset(torch.tensor([True, False]))
    streak, seen = 0, set()
    turn = torch.zeros(2, 7)
    turn[:, 0] = 1.0  # the base carries the grip away from the goal, and back
    for action in [still] * 6 + [turn] * 6 + [-turn] * 6 + [still] * 8:
        step = env.step(action)
        streak = streak + 1 if -step.terms["distance"][0] < 0.05 else 0
        assert step.success[0].item() == (streak >= 5)
        seen.add((streak > 0, streak >= 5))
    assert seen == {(True, False), (True, True), (False, False)} and streak >= 5


def test_reach_reward_terms() -> None:
    env = Reach(COUNT, threads=1, goal_visible=True)
    env.set_tasks(env.distribution.published("train", COUNT))
    env.reset()
    action = random_actions(env, 1)[0]
    step = env.step(action)
    distance = (step.observation[:, 21:24] - step.observation[:, 24:27]).norm(dim=-1)
    assert torch.allclose(step.terms["distance"], -distance, atol=1e-6)
    assert torch.allclose(step.terms["precision"], 1 - torch.tanh(10 * distance), atol=1e-6)
    assert torch.allclose(step.terms["effort"], -0.005 * action.square().sum(-1), atol=1e-6)
    assert not step.terminated.any()


def test_reach_observation_is_what_its_table_says() -> None:
    env = Reach(COUNT, threads=1)
    env.set_tasks(env.distribution.published("train", COUNT))
    env.reset()
    for action in random_actions(env, 7):
        observation = env.step(action).observation.double().numpy()
        qpos, qvel, ctrl = (env.simulator.field(name).numpy() for name in ("qpos", "qvel", "ctrl"))
        np.testing.assert_allclose(observation[:, :7], qpos, atol=1e-6)
        np.testing.assert_allclose(observation[:, 7:14], qvel, atol=1e-5)
        np.testing.assert_allclose(observation[:, 14:21], ctrl - qpos, atol=1e-6)
        low, high = env.model.jnt_range.T
        assert np.all(ctrl >= low) and np.all(ctrl <= high)
    arm = Arm(env.model)
    arm.data.qpos[:] = qpos[0]
    mujoco.mj_kinematics(env.model, arm.data)
    # After a step the sensor is one physics step old, after a reset it is fresh.
    np.testing.assert_allclose(observation[0, 21:24], arm.data.site_xpos[arm.site], atol=0.02)
    observation = env.reset().double().numpy()
    arm.data.qpos[:] = env.simulator.field("qpos")[0].numpy()
    mujoco.mj_kinematics(env.model, arm.data)
    np.testing.assert_allclose(observation[0, 21:24], arm.data.site_xpos[arm.site], atol=1e-6)


def test_reach_targets_cannot_run_away_from_a_blocked_joint() -> None:
    env = Reach(1, threads=1)
    tasks = reach_tasks(torch.tensor([[0.5, 0.0, 0.3]]))
    env.set_tasks(Tasks({**tasks.values, "damping_scale": torch.tensor([[1e5]])}))  # like setting concrete
    env.reset()
    for _ in range(10):
        step = env.step(torch.ones(1, 7))
    assert step.observation[0, :7] == pytest.approx(env.home.numpy(), abs=0.2)
    # The joints move a little during the step itself.
    assert step.observation[0, 14:21].numpy() == pytest.approx(np.full(7, 0.2), abs=0.02)


# Point2d: the protocol of the MAML paper (arXiv 1703.03400, section 5.3 and appendix A.2)


def point(goals: list[list[float]]) -> Point2d:
    env = Point2d(len(goals))
    env.set_tasks(Tasks({"goal": torch.tensor(goals)}))
    return env


def test_point2d_protocol() -> None:
    env = point([[0.3, 0.4], [-0.5, 0.5]])
    assert env.horizon == 100
    goal = env.distribution.parameters["goal"]
    assert (goal.low, goal.high) == ((-0.5, -0.5), (0.5, 0.5))  # type: ignore[union-attr]
    assert torch.equal(env.reset(), torch.zeros(2, 2))
    step = env.step(torch.zeros(2, 2))  # the reward is the squared distance, negated
    assert torch.allclose(step.reward, torch.tensor([-0.25, -0.5]))
    step = env.step(torch.tensor([[1.0, -0.5], [7.0, -7.0]]))  # 1 is 0.1, to which the displacement is clipped
    assert torch.allclose(step.observation, torch.tensor([[0.1, -0.05], [0.1, -0.1]]))
    assert torch.allclose(step.reward, torch.tensor([-(0.2**2 + 0.45**2), -(0.6**2 + 0.6**2)]))
    assert not step.terminated.any()


def test_point2d_return_of_standing_still() -> None:
    env = point([[0.3, 0.4]])
    total = sum(step.reward for step in play(env, torch.zeros(100, 1, 2)))
    assert torch.as_tensor(total) == pytest.approx(-25.0, rel=1e-5)


@pytest.mark.parametrize(
    ("offset", "reached"), [((0.0, 0.0), True), ((0.0099, 0.0), True), ((0.0101, 0.0), False), ((0.008, 0.008), False)]
)
def test_point2d_ends_within_a_hundredth_of_the_goal(offset: tuple[float, float], reached: bool) -> None:
    env = point([[0.2 + offset[0], 0.1 + offset[1]]])
    env.reset()
    first, second = env.step(torch.tensor([[1.0, 0.5]])), env.step(torch.tensor([[1.0, 0.5]]))
    assert not first.terminated and not first.success
    assert second.terminated.item() == second.success.item() == reached


def test_point2d_partial_reset() -> None:
    env = point([[0.3, 0.4], [0.3, 0.4]])
    env.reset()
    env.step(torch.ones(2, 2))
    assert torch.allclose(env.reset(torch.tensor([True, False])), torch.tensor([[0.0, 0.0], [0.1, 0.1]]))
    assert torch.allclose(env.step(torch.ones(2, 2)).observation, torch.tensor([[0.1, 0.1], [0.2, 0.2]]))


def test_point2d_reports_an_action_that_is_not_finite() -> None:
    env = point([[0.3, 0.4], [0.3, 0.4]])
    env.reset()
    env.step(torch.ones(2, 2))
    step = env.step(torch.tensor([[0.5, 0.5], [float("nan"), 0.0]]))
    assert step.failed.tolist() == step.terminated.tolist() == [False, True]
    assert torch.allclose(step.observation, torch.tensor([[0.15, 0.15], [0.0, 0.0]]))
    assert step.reward[1] == 0.0 and not step.success.any()


def test_point2d_controller_solves_all_test_tasks() -> None:
    env = Point2d(100, goal_visible=True)
    env.set_tasks(env.distribution.published("test"))
    observation = env.reset()
    ended = torch.zeros(100, dtype=torch.bool)
    for _ in range(env.horizon):
        step = env.step((observation[:, 2:] - observation[:, :2]) / 0.1)
        observation, ended = step.observation, ended | step.success
    assert ended.all()
