"""Meta-training in memory: one seed gives one run, bit for bit, also when it was interrupted; all algorithms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.algorithms.in_context import InContext
from metarl.algorithms.maml import MAML
from metarl.algorithms.reptile import Reptile
from metarl.config.parsing import parse, train_settings
from metarl.errors import CheckpointError, ConfigError
from metarl.evaluation.curve import adaptation_rounds
from metarl.rollouts.episodes import Episodes
from metarl.rollouts.rollout import collect
from metarl.training.trainer import Trainer, load_policy

CPU = torch.device("cpu")
IN_CONTEXT = {"name": "in_context", "tasks": 4, "episodes": 2, "outer": {"n_epochs": 2, "minibatches": 2}}
MAML_OPTIONS = {"rate": 0.05, "learn_rates": True, "max_grad_norm": 1.0, "unadapted_weight": 1.0}
ALGORITHMS: dict[str, tuple[type, dict[str, Any]]] = {
    "maml": (MAML, {}),
    "fomaml": (MAML, {"inner": {"steps": 2, "first_order": True}}),
    "reptile": (Reptile, {"inner": {"steps": 2, "rate": 0.05}, "outer": {"meta_step_size": 0.5}}),
    "in_context": (InContext, {}),
    "multitask": (InContext, {}),
}


def point2d(algo: str = "maml", seed: int = 0, **changes: Any) -> dict[str, Any]:
    base = {"name": algo, "tasks": 4, "episodes": 3, "baseline": "linear"}
    if algo != "reptile":
        base |= {"outer": {"learning_rate": 1e-3, "n_epochs": 2, "minibatches": 2}}
    if algo in ("maml", "fomaml"):
        changes["inner"] = {"rate": 0.1, "learn_rates": False, "unadapted_weight": 0.0} | changes.get("inner", {})
    return {
        "seed": seed,
        "threads": 1,
        "env": {"name": "point2d", "horizon": 10},
        "agent": {"name": "mlp", "hidden": [16]},
        "algo": base | changes,
    }


def reach(algo: dict[str, Any], context: str = "episode") -> dict[str, Any]:
    return {
        "seed": 1,
        "threads": 1,
        "env": {"name": "reach", "horizon": 6},
        "agent": {"name": "transformer", "width": 8, "layers": 1, "heads": 2, "context": context},
        "algo": algo,
    }


def trainer_of(config: dict[str, Any]) -> Trainer:
    return Trainer(parse(train_settings(config), config), CPU)


def warm_started() -> dict[str, Any]:
    """Two iterations in context on 8 simulations, then MAML on 4."""
    return reach(
        {
            "name": "maml",
            "tasks": 2,
            "episodes": 2,
            "inner": MAML_OPTIONS,
            "outer": {"n_epochs": 1, "minibatches": 2},
            "warm_start": {"iterations": 2, "settings": IN_CONTEXT},
        }
    )


CONFIGS = {
    "point2d-maml": point2d(inner={"steps": 2, "rate": 0.1, "learn_rates": True}),
    "point2d-reptile": point2d("reptile", **ALGORITHMS["reptile"][1]),
    "reach-in_context": reach(IN_CONTEXT),
    "reach-in_context-trial": reach(IN_CONTEXT | {"trial_episodes": 2}, "trial"),
    "reach-maml-warm": warm_started(),
}
TIMES = ("rollout_seconds", "update_seconds")


def train(trainer: Trainer, iterations: int) -> list[dict[str, float]]:
    """Metrics of each iteration, without the times."""
    rows = [trainer.iterate() for _ in range(iterations)]
    assert all(set(TIMES) <= set(row) for row in rows)
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def parameters(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.policy.named_parameters()}


def assert_same_state(left: Trainer, right: Trainer) -> None:
    """Policy, rates, optimisers, generators and counters, bit for bit."""
    (ours, numbers), (theirs, other_numbers) = left.state(), right.state()
    assert numbers == other_numbers
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    trainers = [trainer_of(CONFIGS[name]) for _ in range(2)]
    torch.manual_seed(99)  # nothing may draw from torch's global generator once the policy stands
    first = train(trainers[0], 3)
    assert train(trainers[1], 3) == first
    assert_same_state(*trainers)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_a_run_that_was_interrupted_goes_on_as_if_it_was_not(name: str, interrupted_after: int) -> None:
    whole, first = trainer_of(CONFIGS[name]), trainer_of(CONFIGS[name])
    expected = train(whole, 4)
    train(first, interrupted_after)
    state = copy.deepcopy(first.state())
    resumed = trainer_of(CONFIGS[name])
    resumed.load(*state)
    assert_same_state(resumed, first)
    assert train(resumed, 4 - interrupted_after) == expected[interrupted_after:]
    assert_same_state(resumed, whole)


def test_a_state_is_a_snapshot() -> None:
    """Neither the run that it was taken of nor the one that it was loaded into changes it."""
    first, second = (trainer_of(CONFIGS["point2d-maml"]) for _ in range(2))
    train(first, 1)
    tensors, numbers = first.state()
    kept = copy.deepcopy(tensors)
    second.load(tensors, numbers)
    train(first, 1)
    train(second, 2)
    for name, value in kept.items():
        assert torch.equal(value, tensors[name]), name
    assert numbers["iteration"] == 1


def test_another_seed_gives_another_run() -> None:
    first, second = (trainer_of(point2d(seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.policy.state_dict()["head.weight"], second.policy.state_dict()["head.weight"])
    (ours, _), (theirs, _) = first.state(), second.state()
    generators = [name for name in ours if name.startswith("generator.")]
    assert len(generators) == 4
    assert not any(torch.equal(ours[name], theirs[name]) for name in generators)
    # Within a run they differ as well: no stream repeats another.
    assert len({tuple(ours[name].tolist()) for name in generators}) == 4


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_trains(algo: str) -> None:
    learner, changes = ALGORITHMS[algo]
    trainer = trainer_of(point2d(algo, **changes))
    assert type(trainer.learner) is learner
    before = parameters(trainer)
    rows = train(trainer, 2)
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in rows)
    after = parameters(trainer)
    for name in trainer.policy.parameter_names("all"):
        assert not torch.equal(after[name], before[name]), f"{name} never moved"
    rounds = changes.get("inner", {}).get("steps", 1) + 1 if learner is not InContext else 1
    assert [row["iteration"] for row in rows] == [1.0, 2.0]
    assert [row["env_steps"] for row in rows] == [rounds * 4 * 3 * 10, 2 * rounds * 4 * 3 * 10]
    assert (trainer.iteration, trainer.env_steps) == (2, rows[-1]["env_steps"])
    assert trainer.skipped_share() == 0.0


def test_the_metrics_tell_before_from_after() -> None:
    trainer = trainer_of(point2d(inner={"steps": 1, "rate": 0.1}))
    (row,) = train(trainer, 1)
    for name in ("success", "success_any_step", "return"):
        assert f"{name}_before" in row and f"{name}_after" in row
    assert row["return_before"] != row["return_after"]
    assert row["term_distance"] == pytest.approx(row["return_after"])
    assert row["physics_failures"] == 0.0
    (row,) = train(trainer_of(point2d("in_context")), 1)
    assert row["return_before"] == row["return_after"]


def test_the_warm_start_ends_where_it_should() -> None:
    trainer = trainer_of(warm_started())
    phases, sizes = [], []
    for _ in range(4):
        phase, learner = trainer.phase()
        phases.append((phase.settings.name, type(learner)))
        before = trainer.env_steps
        trainer.iterate()
        sizes.append(trainer.env_steps - before)
    assert phases == [("in_context", InContext)] * 2 + [("maml", MAML)] * 2
    assert sizes == [8 * 6] * 2 + [2 * 4 * 6] * 2
    assert isinstance(trainer.learner, MAML)


def test_outer_rates_fall_by_the_iterations_of_their_phase() -> None:
    config = copy.deepcopy(warm_started())
    config["algo"]["warm_start"]["settings"].setdefault("outer", {})["half_life"] = 1.0
    config["algo"]["outer"]["half_life"] = 2.0
    config["algo"]["inner"]["learn_rates"] = True
    trainer, shares = trainer_of(config), []
    for number in range(5):
        if number == 4:  # as after an interruption
            before, trainer = trainer, trainer_of(config)
            trainer.load(*before.state())
        _, learner = trainer.phase()
        trainer.iterate()
        rates = [group["lr"] for group in learner.optimiser.param_groups]
        shares.append([rate / first for rate, first in zip(rates, learner.first_learning_rates, strict=True)])
    assert shares == [[1.0], [0.5], [1.0, 1.0], pytest.approx([0.5**0.5] * 2), [0.5, 0.5]]


def test_without_a_half_life_the_outer_rate_stays() -> None:
    trainer = trainer_of(point2d())
    train(trainer, 3)
    assert [group["lr"] for group in trainer.learner.optimiser.param_groups] == [1e-3]


def test_training_draws_tasks_from_the_training_split_alone() -> None:
    trainer = trainer_of(warm_started())
    seen = []
    for _ in range(4):
        trainer.iterate()
        _, learner = trainer.phases[0 if trainer.iteration <= 2 else 1]
        env = trainer.environments[learner.settings.tasks * learner.settings.episodes]
        assert env.tasks is not None
        assert set(trainer.distribution.split_of(env.tasks)) == {"train"}
        seen.append(env.tasks["goal"])
    assert len(torch.cat(seen).unique(dim=0)) == 4 + 4 + 2 + 2, "a task came twice"


def test_a_curriculum_begins_in_the_middle_of_the_training_tasks_and_ends_at_all_of_them() -> None:
    config = reach({"name": "in_context", "tasks": 40, "episodes": 1, "curriculum": 3})
    config["env"]["name"] = "reach_search"
    trainer = trainer_of(config)
    widest, goals = [], trainer.distribution.parameters["goal"]
    low, high = torch.tensor(goals.low), torch.tensor(goals.high)
    for width in (0.15, 0.433, 0.717, 1.0):
        assert trainer.width() == pytest.approx(width, abs=1e-3)
        trainer.iterate()
        tasks = trainer.environments[40].tasks
        assert tasks is not None
        assert set(trainer.distribution.split_of(tasks)) == {"train"} and len(tasks) == 40
        widest.append(float(((tasks["goal"] - low) / (high - low) - 0.5).abs().amax()) * 2)
    # The block in the very middle, a fifth of the width, is held out.
    assert widest == pytest.approx([0.2, 0.43, 0.72, 1.0], abs=0.05)


def test_the_normaliser_sees_every_valid_token_once_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(point2d(inner={"steps": 1}))
    seen = []

    def spy(*arguments: Any, **options: Any) -> Episodes:
        episodes = collect(*arguments, **options)
        seen.append(episodes.tokens[episodes.valid > 0][:, [0, 1, 4]])  # position and reward
        return episodes

    monkeypatch.setattr("metarl.training.trainer.collect", spy)
    train(trainer, 2)
    assert len(seen) == 4
    tokens, normaliser = torch.cat(seen).double(), trainer.policy.normaliser
    assert normaliser.count == len(tokens)
    torch.testing.assert_close(normaliser.mean[[0, 1, 4]].double(), tokens.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        normaliser.variance[[0, 1, 4]].double(), tokens.var(0, correction=0), atol=1e-6, rtol=1e-5
    )
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    tasks = trainer.distribution.published("test", 4)
    env = trainer.environments[12]
    rounds, adapted = adaptation_rounds(env, trainer.policy, trainer.learner, tasks, 2, torch.Generator())
    assert len(rounds) == len(adapted) == 3
    assert adapted[0] is None and adapted[2] is not None
    assert all(torch.equal(value, before[name]) for name, value in trainer.policy.state_dict().items())


@pytest.mark.parametrize("algo", ["maml", "fomaml", "in_context", "reptile"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(point2d(algo, **ALGORITHMS[algo][1]))
    train(trainer, 1)
    learner = trainer.learner
    before = parameters(trainer)
    memory = {name: value.clone() for name, value in learner.state().items()}
    name = "inner_loss" if algo == "reptile" else "outer_loss"
    sound = getattr(type(learner), name)
    with monkeypatch.context() as patch:
        # On the class: a patched instance's copies would all compute with its policy, from several threads.
        patch.setattr(type(learner), name, lambda *arguments: sound(*arguments) * torch.nan)
        (row,) = train(trainer, 1)
    assert row["skipped_updates"] == row["updates"] == (1.0 if algo == "reptile" else 4.0)
    # The critic's last layer follows its units, which move without changing any value (see the test below).
    unchanged = {name: value for name, value in parameters(trainer).items() if not name.startswith("critic.layers.1.")}
    assert all(torch.equal(value, before[name]) for name, value in unchanged.items())
    assert all(torch.equal(value, memory[name]) for name, value in learner.state().items())
    assert trainer.skipped_share() == 0.5
    (row,) = train(trainer, 1)  # and then it goes on
    assert row["skipped_updates"] == 0.0
    assert not torch.equal(parameters(trainer)["head.weight"], before["head.weight"])
    assert trainer.skipped_share() == pytest.approx(1 / 3)


def test_a_rate_gradient_that_is_not_finite_is_skipped_too() -> None:
    trainer = trainer_of(point2d(inner={"learn_rates": True}))
    learner = trainer.learner
    before = parameters(trainer)
    gradient = {name: torch.ones_like(value) for name, value in learner.parameters.items()}
    assert not learner.apply(
        gradient, {name: torch.full_like(x, torch.inf) for name, x in learner.rate_parameters.items()}
    )
    assert all(torch.equal(value, before[name]) for name, value in parameters(trainer).items())


def test_where_the_optimiser_would_step_anyway_it_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(point2d())
    learner = trainer.learner
    step = learner.optimiser.step

    def deaf() -> None:
        learner.optimiser.found_inf = None
        step()

    monkeypatch.setattr(learner.optimiser, "step", deaf)
    monkeypatch.setattr("metarl.algorithms.gradient_learner.DEAF", {"cpu"})
    before = parameters(trainer)
    spoiled = {name: torch.full_like(value, torch.nan) for name, value in learner.parameters.items()}
    assert not learner.apply(spoiled, {})
    assert all(torch.equal(value, before[name]) for name, value in parameters(trainer).items())
    assert learner.apply({name: torch.ones_like(value) for name, value in learner.parameters.items()}, {})
    assert not torch.equal(parameters(trainer)["log_std"], before["log_std"])


@pytest.mark.parametrize("algo", ["in_context", "reptile"])
def test_a_deviation_that_left_its_range_can_be_learned_again(algo: str) -> None:
    trainer = trainer_of(point2d(algo, **ALGORITHMS[algo][1]))
    with torch.no_grad():
        trainer.policy.log_std.copy_(torch.tensor([1.5, -5.0]))  # as a step of the optimiser leaves it
    trainer.iterate()
    torch.testing.assert_close(trainer.policy.log_std.detach(), torch.tensor([1.0, -4.0]), rtol=0.0, atol=0.1)
    trainer.policy.bounded_log_std(trainer.policy.log_std).sum().backward()
    assert trainer.policy.log_std.grad is not None and bool(trainer.policy.log_std.grad.all())


def test_the_gradient_is_clipped_to_its_limit() -> None:
    trainer = trainer_of(point2d(outer={"max_grad_norm": 0.5}))
    learner = trainer.learner
    assert learner.apply({name: torch.ones_like(value) for name, value in learner.parameters.items()}, {})
    norm = torch.cat([p.grad.flatten() for p in learner.parameters.values() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)


def test_a_checkpoint_of_another_configuration_is_refused() -> None:
    small, large = trainer_of(point2d()), trainer_of(point2d() | {"agent": {"name": "mlp", "hidden": [17]}})
    with pytest.raises(CheckpointError, match="the checkpoint does not fit the run's configuration") as caught:
        large.load(*small.state())
    assert "\n" not in str(caught.value)
    tensors, numbers = small.state()
    del tensors["generator.tasks"]
    with pytest.raises(CheckpointError, match="generator.tasks"):
        trainer_of(point2d()).load(tensors, numbers)


def test_a_policy_alone_comes_back_from_a_state() -> None:
    trained, fresh = trainer_of(point2d()), trainer_of(point2d(seed=5))
    train(trained, 1)
    load_policy(fresh.policy, trained.state()[0])
    for name, value in trained.policy.state_dict().items():
        assert torch.equal(fresh.policy.state_dict()[name], value)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    mistakes: tuple[dict[str, Any], ...] = ({"taskz": 3}, {"inner": {"stepz": 1}}, {"outer": {"epoch": 1}})
    for changes in mistakes:
        with pytest.raises(ConfigError, match=r"^algo\.(.+\.)?(taskz|stepz|epoch): unknown key; did you mean"):
            trainer_of(point2d(**changes))


def test_the_critic_takes_its_units_from_every_iterations_targets() -> None:
    trainer = trainer_of(point2d("in_context", **ALGORITHMS["in_context"][1]))
    for count in (1.0, 2.0):
        before = float(trainer.policy.critic.deviation)
        train(trainer, 1)
        assert float(trainer.policy.critic.count) == count
        assert float(trainer.policy.critic.deviation) != before
