"""Collecting episodes: what the policy saw, what it did, and what counts, on scripted, real and failing simulations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from agents.mlp import MLPPolicy
from agents.policy import Output, Policy, State, log_probability
from agents.transformer import TransformerPolicy
from envs.core.environment import Drawer, Environment, Step
from envs.core.tasks import Range, TaskDistribution, Tasks
from envs.errors import TaskError
from envs.families.reach import Reach
from envs.registry import make
from metarl.rollouts.acting import Actor, acting
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import collect

M, E, H = 2, 3, 6


class Scripted(Environment):
    """Plays given tensors (H, N): reward, success, terminated, failed. Observes [resets so far, steps since]."""

    name = "scripted"
    success_criterion = "as the script says"

    def __init__(self, reward: Tensor, success: Tensor, terminated: Tensor, failed: Tensor) -> None:
        super().__init__(reward.shape[1], TaskDistribution({"goal": Range(0.0, 1.0)}))
        self.horizon, self.observation_size, self.action_size = len(reward), 2, 1
        self.script = reward, success, terminated, failed
        self.resets, self.elapsed = 0, 0
        self.last_failure = "the script failed"

    def apply_tasks(self) -> None:
        pass

    def observe(self) -> Tensor:
        return torch.tensor([float(self.resets), float(self.elapsed)]).repeat(self.num_simulations, 1)

    def reset(self, mask: Tensor | None = None) -> Tensor:
        self.resets, self.elapsed = self.resets + 1, 0
        return self.observe()

    def step(self, action: Tensor) -> Step:
        reward, success, terminated, failed = (x[self.elapsed] for x in self.script)
        self.elapsed += 1
        half = reward / 2
        return Step(self.observe(), reward, {"a": half, "b": half}, success, terminated, failed, reward)

    def render_state(self, simulation: int) -> dict[str, np.ndarray]:
        return {}

    def drawer(self, simulation: int, width: int, height: int) -> Drawer:
        raise NotImplementedError


class Constant(Policy):
    """Always the same action, without any spread worth mentioning."""

    def __init__(self, observation_size: int, action: list[float]) -> None:
        super().__init__(observation_size, len(action), "none", 1, 1e-30)
        self.action = torch.nn.Parameter(torch.tensor(action))

    def forward(self, tokens: Tensor) -> Output:
        mean = self.action.expand(*tokens.shape[:-1], self.action_size)
        return Output(mean, self.bounded_log_std(mean), mean[..., 0])

    def initial_state(self, batch: int) -> State:
        return None

    def step(self, token: Tensor, state: State, position: int | Tensor) -> tuple[Output, State]:
        return self(token), state

    def head_names(self) -> frozenset[str]:
        return frozenset({"action"})

    def critic_names(self) -> frozenset[str]:
        return frozenset()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def point2d(goals: list[list[float]] | None = None, simulations: int = M * E, horizon: int = H) -> Environment:
    env = make("point2d", simulations, horizon=horizon)
    env.set_tasks(Tasks({"goal": torch.tensor(goals)}) if goals else env.distribution.sample(M))
    return env


def shaken(policy: Policy) -> Policy:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    policy.normaliser.update(torch.randn(30, policy.layout.size))
    return policy


def transformer(env: Environment, context: str = "episode", episodes: int = 1) -> Policy:
    torch.manual_seed(0)
    length = env.horizon * episodes
    return shaken(
        TransformerPolicy(env.observation_size, env.action_size, length, width=8, layers=1, heads=2, context=context)
    )


def per_task(policy: Policy, adapt: str = "all") -> dict[str, Tensor]:
    """Different parameters for each task."""
    own = dict(policy.named_parameters())
    names = sorted(policy.parameter_names(adapt))
    return {name: own[name].detach() + 0.2 * torch.randn(M, *own[name].shape) for name in names}


def assert_finite(episodes: Episodes) -> None:
    for field in fields(episodes):
        value = getattr(episodes, field.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            assert bool(torch.isfinite(value).all()), field.name


@pytest.mark.parametrize("adapt", ["all", "head", "body"])
@pytest.mark.parametrize("context", ["none", "episode", "trial"])
def test_acting_with_a_set_of_parameters_per_task(context: str, adapt: str) -> None:
    env = point2d()
    policy = transformer(env, context)
    adapted = per_task(policy, adapt)
    tokens = torch.randn(M, E, H, 6)
    act, state = acting(policy, adapted, M), policy.initial_state(M * E)
    outputs = []
    with torch.no_grad():
        for t in range(H):
            output, state = act(tokens[:, :, t].flatten(0, 1), state, t)
            outputs.append(output)
        for m in range(M):
            own = {name: value[m] for name, value in adapted.items()}
            whole = functional_call(policy, own, (tokens[m],))
            for index, expected in enumerate(whole):
                ours = torch.stack([output[index] for output in outputs], 1).unflatten(0, (M, E))[m]
                torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


def test_acting_without_adapted_parameters_is_the_policy_itself() -> None:
    policy = transformer(point2d())
    token = torch.randn(M * E, 6)
    for adapted in (None, {}):
        output, _ = acting(policy, adapted, M)(token, policy.initial_state(M * E), 0)
        torch.testing.assert_close(output.mean, policy(token[:, None]).mean[:, 0])


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("context", "trial"), [("none", 1), ("episode", 1), ("trial", 2), ("none", 2)])
def test_what_was_recorded_is_what_the_whole_pass_gives(context: str, trial: int, adapted: bool) -> None:
    """The losses compare the whole pass with what acting wrote down: they must start from a ratio of 1."""
    env = point2d()
    policy = transformer(env, context, trial)
    parameters = per_task(policy) if adapted else None
    episodes = collect(env, policy, parameters, generator=generator(), trial_episodes=trial)
    steps = H * trial
    assert episodes.tokens.shape == (M, E, steps, 6)
    assert episodes.actions.shape == (M, E, steps, 2)
    for value in (episodes.log_probability, episodes.value, episodes.reward, episodes.valid):
        assert value.shape == (M, E, steps)
    for value in (episodes.returns, episodes.success_at_end, episodes.success_any_step, episodes.terms["distance"]):
        assert value.shape == (M, E, trial)
    assert episodes.steps == M * E * steps
    for m in range(M):
        own = {name: value[m] for name, value in parameters.items()} if parameters else {}
        with torch.no_grad():
            output = functional_call(policy, own, (episodes.tokens[m],))
        expected = log_probability(output, episodes.actions[m])
        torch.testing.assert_close(episodes.log_probability[m], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(episodes.value[m], output.value, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["point2d", "reach"])
def test_tokens_hold_what_happened_before(name: str) -> None:
    """Two episodes share a memory: the flag marks where each begins, the last action and reward are carried over."""
    env = make(name, M * E, seed=1, threads=1, horizon=H)
    env.set_tasks(env.distribution.sample(M))
    policy = transformer(env, "trial", 2)
    seen: list[tuple[int, Step | None]] = []
    episodes = collect(
        env, policy, generator=generator(), trial_episodes=2, listener=lambda t, step: seen.append((t, step))
    )
    d, a = env.observation_size, env.action_size
    assert [t for t, _ in seen] == [*range(H + 1)] * 2
    observations = [step.observation for _, step in seen if step is not None]
    rewards = [step.reward for _, step in seen if step is not None]
    tokens = episodes.tokens.flatten(0, 1)
    actions = episodes.actions.flatten(0, 1).clamp(-1.0, 1.0)
    assert actions.abs().max() == 1.0, "no action was clipped: the test shows nothing"
    assert bool((tokens[:, 0, d:-1] == 0).all())
    for t in range(2 * H):
        assert bool((tokens[:, t, -1] == float(t % H == 0)).all())
        if t % H:
            torch.testing.assert_close(tokens[:, t, :d], observations[t - 1])
        if t:
            torch.testing.assert_close(tokens[:, t, d : d + a], actions[:, t - 1])
            torch.testing.assert_close(tokens[:, t, d + a], rewards[t - 1])
        torch.testing.assert_close(episodes.reward.flatten(0, 1)[:, t], rewards[t])
    summed = episodes.reward.unflatten(-1, (2, H)).sum(-1)
    torch.testing.assert_close(episodes.returns, summed)
    torch.testing.assert_close(torch.stack(list(episodes.terms.values())).sum(0), summed, atol=1e-5, rtol=1e-5)


def test_a_trial_starts_every_episode_anew_but_remembers() -> None:
    env = point2d([[0.9, 0.9], [-0.9, 0.9]])
    policy = transformer(env, "trial", 2)
    episodes = collect(env, policy, generator=generator(), trial_episodes=2)
    assert bool((episodes.tokens[:, :, [0, H], :2] == 0).all()), "the point starts at the origin"
    assert bool((episodes.tokens[:, :, H - 1, :2] != 0).all())
    forgotten = policy(episodes.tokens[:, :, H:].flatten(0, 1)).value.unflatten(0, (M, E))
    assert (forgotten - episodes.value[:, :, H:]).abs().max() > 1e-4


def test_an_environment_is_told_when_a_trial_begins() -> None:
    env, calls = point2d([[0.9, 0.9], [-0.9, 0.9]]), []
    begin, reset = env.begin_trial, env.reset
    env.begin_trial = lambda: (calls.append("trial"), begin())[1]
    env.reset = lambda mask=None: (calls.append("episode"), reset(mask))[1]
    collect(env, transformer(env, "trial", 2), generator=generator(), trial_episodes=2)
    assert calls == ["trial", "episode", "episode"]


@pytest.mark.parametrize(("context", "remembered"), [("trial", 1), ("episode", 0)])
def test_a_longer_trial_takes_the_place_of_the_last_episode(context: str, remembered: int) -> None:
    """The first episodes stay in memory, the newest are forgotten; a memory of an episode holds none."""
    env = point2d([[0.9, 0.9], [-0.9, 0.9]])
    policy = transformer(env, context, 2 if context == "trial" else 1)
    episodes = collect(env, policy, generator=generator(), trial_episodes=4)
    assert episodes.returns.shape == (M, E, 4)
    kept = episodes.tokens[:, :, : remembered * H]
    before = policy.layout.without_history(episodes.tokens) != episodes.tokens
    assert bool(before[:, :, H::H, :-1].any()) == bool(remembered)
    for number in range(remembered, 4):
        own = slice(number * H, (number + 1) * H)
        seen = torch.cat([kept, episodes.tokens[:, :, own]], 2)
        value = policy(seen.flatten(0, 1)).value[:, -H:].unflatten(0, (M, E))
        torch.testing.assert_close(episodes.value[:, :, own], value, atol=2e-5, rtol=2e-5)


def test_only_sequences_without_room_give_up_an_episode() -> None:
    policy = transformer(point2d(), "trial", 3)
    actor = Actor(policy, None, 1)
    memory = actor.start(2)._replace(position=torch.tensor([2 * H - 1, 3 * H - 1]))
    assert actor.next_episode(memory, torch.zeros(2), H)[0].position.tolist() == [2 * H - 1, 2 * H]


def test_deterministic_acting_is_the_mean() -> None:
    env = point2d()
    policy = transformer(env)
    episodes = collect(env, policy, generator=generator(), deterministic=True)
    with torch.no_grad():
        mean = policy(episodes.tokens.flatten(0, 1)).mean.unflatten(0, (M, E))
    torch.testing.assert_close(episodes.actions, mean, atol=2e-5, rtol=2e-5)
    # Nothing tells the simulations of a task apart.
    torch.testing.assert_close(episodes.actions[:, 0], episodes.actions[:, 1], atol=1e-5, rtol=1e-5)


def test_the_noise_is_the_policys_own_and_the_generators() -> None:
    env = point2d(simulations=200, horizon=50)
    policy = Constant(2, [0.3, -0.2])
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([0.5, 0.1]).log())
    first, again, other = (
        collect(env, policy, generator=torch.Generator().manual_seed(seed)).actions for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.mean((0, 1, 2)), torch.tensor([0.3, -0.2]), atol=0.02, rtol=0.0)
    torch.testing.assert_close(first.std((0, 1, 2)), torch.tensor([0.5, 0.1]), atol=0.02, rtol=0.0)


def test_an_episode_ends_at_the_goal() -> None:
    """0.05 per step to the right: task 0 is reached in the third step and left behind, task 1 never."""
    env = point2d([[0.15, 0.0], [-0.4, 0.0]])
    episodes = collect(env, Constant(2, [0.5, 0.0]), generator=generator(), deterministic=True)
    assert episodes.valid[0].tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]] * E
    assert episodes.valid[1].tolist() == [[1.0] * H] * E
    assert episodes.success_at_end[:, :, 0].tolist() == [[True] * E, [False] * E]
    assert torch.equal(episodes.success_at_end, episodes.success_any_step)
    torch.testing.assert_close(episodes.reward[0, 0], torch.tensor([-0.01, -0.0025, 0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(episodes.returns[0, :, 0], torch.full((E,), -0.0125))
    torch.testing.assert_close(episodes.terms["distance"], episodes.returns)
    assert episodes.failures == 0 and episodes.failure is None


def scripted(**changes: list[list[int]]) -> Environment:
    """Four steps of five simulations, one column each; what is not given is 0."""
    script = {name: torch.zeros(4, 5, dtype=torch.bool) for name in ("success", "terminated", "failed")}
    script |= {name: torch.tensor(rows).bool() for name, rows in changes.items()}
    env = Scripted(torch.arange(1.0, 5.0)[:, None].repeat(1, 5), *script.values())
    env.set_tasks(Tasks({"goal": torch.zeros(5, 1)}))
    return env


def test_success_and_validity_are_read_off_the_steps_that_count() -> None:
    """Columns: fails at the end; wins, then loses it; ends early with success; wins after its end; wins, then fails."""
    env = scripted(
        success=[[0, 1, 0, 0, 1], [0, 1, 1, 0, 1], [0, 0, 0, 1, 0], [1, 0, 0, 1, 0]],
        terminated=[[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 0, 1, 0, 0]],
        failed=[[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 0, 1, 0, 0]],
    )
    episodes = collect(env, Constant(2, [0.0]), generator=generator(), trial_episodes=2)
    once = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]).float()
    assert torch.equal(episodes.valid[:, 0], torch.cat([once, once], -1))
    assert torch.equal(episodes.reward[:, 0], episodes.valid[:, 0] * torch.arange(1.0, 5.0).repeat(2))
    for r in range(2):
        assert episodes.success_at_end[:, 0, r].tolist() == [False, False, True, False, False]
        assert episodes.success_any_step[:, 0, r].tolist() == [False, True, True, False, True]
        assert episodes.returns[:, 0, r].tolist() == [6.0, 10.0, 3.0, 3.0, 3.0]
        assert episodes.terms["a"][:, 0, r].tolist() == [3.0, 5.0, 1.5, 1.5, 1.5]
        assert episodes.broken[:, 0, r].tolist() == [True, False, False, False, True]
    # Column 2 fails after its end: that is nobody's failure.
    assert episodes.failures == 4 and episodes.failure == "the script failed, episode 0, control step 2"
    # Every episode starts with one reset, and the flag says so.
    assert episodes.tokens[0, 0, :, 0].tolist() == [1.0] * 4 + [2.0] * 4
    assert episodes.tokens[0, 0, :, 1].tolist() == [0.0, 1.0, 2.0, 3.0] * 2


def test_an_episode_is_over_where_its_physics_fails_even_if_nothing_says_so() -> None:
    env = scripted(failed=[[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    episodes = collect(env, Constant(2, [0.0]), generator=generator())
    assert episodes.valid[:, 0].sum(-1).tolist() == [1.0, 4.0, 4.0, 4.0, 3.0]
    assert episodes.returns[:, 0, 0].tolist() == [1.0, 10.0, 10.0, 10.0, 6.0] and episodes.failures == 2


def test_success_at_the_last_step_counts() -> None:
    env = scripted(success=[[0] * 5, [1] * 5, [0] * 5, [1, 0, 1, 0, 1]])
    episodes = collect(env, Constant(2, [0.0]), generator=generator())
    assert episodes.success_at_end[:, 0, 0].tolist() == [True, False, True, False, True]
    assert bool(episodes.success_any_step.all())


def spoil(env: Reach, simulation: int, at: int) -> Callable[[int, Step | None], None]:
    """A listener that breaks one simulation's joint angles after step `at` of an episode."""

    def listener(t: int, step: Step | None) -> None:
        if t == at:
            env.qpos[simulation, 2] = torch.nan

    return listener


def test_a_simulation_that_fails_is_masked_counted_and_named() -> None:
    env = make("reach", M * E, seed=1, threads=1, horizon=H)
    assert isinstance(env, Reach)
    env.set_tasks(env.distribution.sample(M))
    policy = transformer(env)
    episodes = collect(env, policy, generator=generator(), listener=spoil(env, 4, 2))
    assert_finite(episodes)
    expected = torch.ones(M, E, H)
    expected[1, 1, 2:] = 0.0
    assert torch.equal(episodes.valid, expected)
    assert bool((episodes.reward[1, 1, 2:] == 0).all())
    assert episodes.failures == 1
    assert episodes.failure is not None and "simulation 4, task 1" in episodes.failure
    assert episodes.failure.endswith(", episode 0, control step 2")
    # The others do not notice, and the next rollout starts afresh.
    env.generator.manual_seed(1)
    whole = collect(env, policy, generator=generator())
    assert whole.failures == 0 and bool((whole.valid == 1).all())


def test_failing_does_not_disturb_the_other_simulations() -> None:
    results = []
    for broken in (False, True):
        env = make("reach", M * E, seed=1, threads=1, horizon=H)
        assert isinstance(env, Reach)
        env.set_tasks(env.distribution.sample(M))
        policy = transformer(env)
        results.append(collect(env, policy, generator=generator(), listener=spoil(env, 4, 2 if broken else -1)))
    others = [0, 1, 2, 3, 5]
    for name in ("tokens", "actions", "reward", "value", "returns"):
        whole, broken_one = (getattr(episodes, name).flatten(0, 1) for episodes in results)
        assert torch.equal(whole[others], broken_one[others]), name


def test_actions_that_are_no_numbers_fail_and_are_not_valid() -> None:
    env = point2d()
    policy = MLPPolicy(2, 2, hidden=(4,))
    adapted = per_task(policy, "head")
    adapted["head.bias"][1] = torch.nan
    episodes = collect(env, policy, adapted, generator=generator())
    assert bool((episodes.valid[0] == 1).all()) and bool((episodes.valid[1] == 0).all())
    assert episodes.failures == E
    assert bool(torch.isfinite(episodes.reward).all()) and bool(torch.isfinite(episodes.returns).all())


def test_collecting_needs_tasks_and_changes_no_policy() -> None:
    with pytest.raises(TaskError, match="point2d: set tasks before collecting episodes"):
        collect(make("point2d", 4), MLPPolicy(2, 2), generator=generator())
    env = point2d()
    policy = transformer(env)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    episodes = collect(env, policy, per_task(policy), generator=generator())
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert not any(x.requires_grad for x in (episodes.actions, episodes.log_probability, episodes.value))
    assert replace(episodes, failures=1).steps == M * E * H
