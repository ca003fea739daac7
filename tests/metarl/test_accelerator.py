"""Everything on an accelerator, as far as that shows without one: nothing mixed, few waits, the results of the CPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

import envs  # noqa: F401 - registers metarl/Reach-v0
import metarl
from agents import policy as policies
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.maml import MAML
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import TrainingError
from metarl.rollouts.episodes import Batch
from metarl.run_folder import RunFolder
from metarl.runs import evaluate, reproduce, train
from metarl.training.trainer import Trainer
from tests import pretend

CPU = torch.device("cpu")
TINY = ["env.horizon=3", "algo.tasks=3", "algo.episodes=2", "budget.iterations=1", "checkpoint.every=1"]
TINY += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "report=page"]
REACH = ["env=reach", "agent=transformer", "agent.width=8", "agent.layers=1", *TINY]
ALONE = ["algo.warm_start.iterations=0", "agent.context=episode"]
ONCE = ["algo.outer.n_epochs=1", "algo.outer.minibatches=2"]
ALGORITHMS = {
    "maml": [*REACH, *ALONE, *ONCE],
    "fomaml": [*REACH, *ALONE, *ONCE, "algo.inner.max_grad_norm=0.1"],
    "reptile": [*REACH, *ALONE],
    "in_context": [*REACH, *ONCE],
    "multitask": [*REACH, *ONCE],
    "maml of an mlp": ["env=point2d", *TINY, *ONCE],
    "maml of two steps": [*REACH, *ALONE, *ONCE, "algo.inner.steps=2"],
    "maml with a linear baseline": [*REACH, *ALONE, *ONCE, "algo.baseline=linear"],
    "in_context over two episodes that end early": ["env=navigate", *REACH[1:], *ONCE, "algo.trial_episodes=2"],
    "in_context with a critic that is told": ["env=reach_search", *REACH[1:], *ONCE, "agent.critic_sees_task=true"],
}
MEASURED: dict[str, Any] = {"split": "test", "tasks": 2, "steps": 1, "episodes": 3, "seed": 0, "threads": 1}
MEASURED |= {"deterministic": False}
BUDGET = 12  # of waits in a meta-iteration beyond a download per control step; of uploads likewise
Counts = tuple[int, int]  # uploads and waits beyond those of the control steps


def settings_of(name: str, *given: str) -> TrainSettings:
    settings = compose([*ALGORITHMS[name], f"algo={name.split()[0]}", *given])
    assert isinstance(settings, TrainSettings)
    return settings


def iterated(settings: TrainSettings) -> tuple[Trainer, Counts]:
    """A trainer after an iteration on the accelerator, and what that took."""
    with pretend.accelerator() as ledger:
        trainer = Trainer(settings, pretend.DEVICE)
        ledger.clear()
        trainer.iterate()
    steps = trainer.env_steps // (settings.algo.tasks * settings.algo.episodes)
    uploads, downloads, waits = ledger.numbers()
    assert max(uploads, downloads) - steps <= BUDGET
    return trainer, (uploads - steps, downloads + waits - steps)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_iteration_waits_for_little_and_computes_what_the_cpu_does(name: str) -> None:
    settings = settings_of(name)
    trainer, (uploads, waits) = iterated(settings)
    assert uploads <= BUDGET and waits <= BUDGET
    assert trainer.policy.device == pretend.DEVICE and trainer.updates and not trainer.skipped_updates
    plain = Trainer(settings, CPU)
    plain.iterate()
    with pretend.accelerator():
        theirs = trainer.state()[0]
    for key, value in plain.state()[0].items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", ["maml", "in_context", "reptile"])
def test_nothing_grows_with_tensors_and_minibatches_and_only_one_transfer_with_steps(name: str) -> None:
    more = [] if name == "reptile" else ["algo.outer.minibatches=3", "algo.outer.n_epochs=2"]
    _, little = iterated(settings_of(name))
    _, much = iterated(settings_of(name, "agent.layers=2", "env.horizon=6", *more))
    assert much == little


def test_numbers_of_half_the_digits_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "WITHOUT_FLOAT64", {"pretend"})
    with pretend.accelerator(refused=[torch.float64]):
        Trainer(settings_of("maml with a linear baseline"), pretend.DEVICE).iterate()
    monkeypatch.undo()
    with pretend.accelerator(refused=[torch.float64]), pytest.raises(TypeError, match="has no torch.float64"):
        Trainer(settings_of("multitask"), pretend.DEVICE).iterate()


@pytest.mark.parametrize("name", ["maml", "in_context over two episodes that end early"])
def test_a_run_lives_there_and_goes_on_here(tmp_path: Path, name: str) -> None:
    """Trained, resumed exactly, evaluated and adapted there; what it has learned goes on on the CPU."""
    given, longer = [*ALGORITHMS[name], f"algo={name.split()[0]}", "device=pretend"], "budget.iterations=2"
    with pretend.accelerator():
        whole = train(compose([*given, longer, f"run_dir={tmp_path / 'whole'}"]))
        half = train(compose([*given, f"run_dir={tmp_path / 'half'}"]))
        other = tmp_path / "other"
        shutil.copytree(half, other)
        train(compose([f"resume={half}", longer]))
    train(compose([f"resume={other}", longer, "device=cpu"]))
    there, again, here = (RunFolder(path).load_checkpoint(2).tensors for path in (whole, half, other))
    assert all(torch.equal(there[key], value) for key, value in again.items())
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings_of("maml", f"run_dir={tmp_path_factory.mktemp('runs') / 'run'}"))


def test_an_evaluation_there_is_that_of_the_cpu(run: Path) -> None:
    results = []
    for device in ("cpu", "pretend"):
        with pretend.accelerator() as ledger:
            opened = open_run(run, device)
            ledger.clear()
            results.append(evaluate(opened, console=Console(quiet=True), out=f"{device}.json", **MEASURED))
            uploads, downloads, waits = ledger.numbers()
    steps = 2 * opened.horizon
    assert downloads == steps and uploads - steps <= BUDGET and waits <= BUDGET
    for ours, theirs in zip(results[0]["curve"], results[1]["curve"], strict=True):
        assert theirs["return"]["mean"] == pytest.approx(ours["return"]["mean"], rel=1e-5)


def test_an_agent_adapts_and_acts_there_as_on_the_cpu(run: Path) -> None:
    actions = []
    for device in ("cpu", "pretend"):
        env = gymnasium.make("metarl/Reach-v0", horizon=3)
        env.reset(seed=0)
        env.unwrapped.set_task(env.unwrapped.sample_tasks(1)[0])
        with pretend.accelerator() as ledger:
            agent = metarl.load(run, device).adapt(env, episodes=2, steps=1)
            observation, state = env.reset(seed=1)[0], None
            ledger.clear()
            for _ in range(3):
                action, state = agent.predict(observation, state, deterministic=False, reward=0.0)
                actions.append(action)
                observation = env.step(action)[0]
            uploads, downloads, waits = ledger.numbers()
    assert (uploads, downloads, waits) == (6, 3, 0)  # what has been seen, and the noise
    torch.testing.assert_close(*torch.tensor(np.stack(actions)).split(3), rtol=1e-4, atol=1e-5)


def test_what_is_not_finite_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = MAML.outer_loss

    def broken(self: MAML, parameters: Parameters, batch: Batch) -> Tensor:
        return sound(self, parameters, batch) * torch.nan

    with pretend.accelerator(), monkeypatch.context() as patch:
        patch.setattr(MAML, "outer_loss", broken)
        settings = settings_of("maml", "device=pretend", f"run_dir={tmp_path / 'run'}")
        with pytest.raises(TrainingError, match="100% of the updates .* outer gradient of task 0 .* is not finite"):
            train(settings)
        (dump,) = (tmp_path / "run" / "dumps").iterdir()
        assert reproduce(dump, "pretend").startswith("outer gradient of task 0 ")


def test_the_pretence_refuses_what_an_accelerator_would() -> None:
    """The tests above find nothing if it lets everything pass."""
    with pretend.accelerator() as ledger:
        linear, x = torch.nn.Linear(3, 2).to(pretend.DEVICE), torch.ones(4, 3)
        with pytest.raises(RuntimeError, match="mixed with one of the CPU"):
            linear(x)
        with pytest.raises(RuntimeError):
            linear(x.to(pretend.DEVICE)).detach().numpy()
        ledger.clear()
        y = linear(x.to(pretend.DEVICE)).detach()
        assert ledger.numbers() == (1, 0, 0)
        assert float(y.sum()) == float(y.cpu().sum())
        assert ledger.numbers() == (1, 1, 1)
        assert len(y[y[:, 0] == y[:, 0]]) == len(y) and ledger.numbers() == (1, 1, 2)
        y[torch.tensor([0])] = 0.0
        assert ledger.numbers() == (2, 1, 2)
        y.tolist()
        assert ledger.numbers() == (2, 2, 2)
