"""Fine-tuning by gradient descent and by PPO with Adam."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.compare import fine_tuning
from experiments.compare.fine_tuning import METHODS
from metarl.algorithms.learner import Learner
from metarl.algorithms.objectives import clipped_surrogate
from metarl.assembly.opened import Run, open_run
from metarl.config.composition import compose
from metarl.rollouts.episodes import Batch
from metarl.rollouts.rollout import collect
from metarl.runs import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("fine") / "run"
    small = ("env.horizon=5", "agent.width=8", "algo.tasks=4", "algo.trial_episodes=2", "algo.outer.n_epochs=1")
    words = ("env=reach", "algo=in_context", "evaluate.tasks=2", "evaluate.episodes_per_step=1", "threads=1")
    train(compose([*words, *small, "device=cpu", "budget.iterations=1", f"run_dir={folder}"]))
    return open_run(Path(folder))


def experience(run: Run, tasks: int) -> Batch:
    env = run.environment(3 * tasks, 0, 1)
    env.set_tasks(run.held_out("validation", tasks))
    play = collect(env, run.policy, generator=torch.Generator().manual_seed(0), trial_episodes=2)
    batch = run.learner.prepare(play)
    # As where the feedback is not the reward: that of the inner loss differs from that of the outer one.
    return batch._replace(inner_advantage=batch.advantage.flip(2))


def test_ppo_is_adam_on_the_clipped_surrogate_task_by_task(run: Run) -> None:
    learner = METHODS["ppo"].apply(run, {"rate": 0.01, "passes": 3}, 2).learner
    batch = experience(run, 12)  # more than are in memory at once
    once = learner.adapt(None, batch)
    twice = learner.adapt(once, batch)
    again = learner.adapt(None, batch)
    assert all(torch.equal(once[name], again[name]) for name in once)  # Adam's memory is of the task
    for task in (0, 11):
        weights = {name: run.learner.parameters[name].detach().clone().requires_grad_() for name in once}
        adam = torch.optim.Adam(weights.values(), 0.01, eps=fine_tuning.EPSILON)
        data = batch.select(task)
        for count in range(6):
            loss = clipped_surrogate(
                learner.outputs(weights, data), data._replace(advantage=data.inner_advantage), fine_tuning.CLIP_RANGE
            )
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), fine_tuning.CLIP)
            adam.step()
            if count == 2:
                for name, value in weights.items():
                    assert torch.allclose(once[name][task], value, atol=1e-4), name
        for name, value in weights.items():
            assert torch.allclose(twice[name][task], value, atol=1e-3), name


def test_gradient_descent_a_few_at_a_time_is_that_of_all(run: Run) -> None:
    learner = METHODS["sgd"].apply(run, {"rate": 0.1}, 2).learner
    batch = experience(run, 12)
    ours = learner.adapt(learner.adapt(None, batch), batch)
    theirs = Learner.adapt(learner, Learner.adapt(learner, None, batch), batch)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_both_settings_of_a_choice_are_described() -> None:
    choice = {"rate": 0.001, "passes": 4, "clip": 1.0, "grid": []}
    assert fine_tuning.described(choice) == "rate 0.001, passes 4, gradient norm at most 1"
    assert fine_tuning.settings_in(choice) == {"rate": 0.001, "passes": 4}
