"""What is not finite is found where it arose, named, skipped and counted; a run that skips too much leaves a dump."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.policy import Policy
from envs.registry import make
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.in_context import InContext
from metarl.algorithms.learner import Learner
from metarl.algorithms.maml import MAML
from metarl.algorithms.nan_search import search_inner_step, search_update, snapshot
from metarl.algorithms.reptile import Reptile
from metarl.config.algorithms import PPO, InContextSettings, MAMLSettings, ReptileSettings
from metarl.config.command_line import main
from metarl.config.composition import compose
from metarl.errors import CheckpointError, NotFiniteError, TrainingError
from metarl.evaluation.curve import adaptation_rounds
from metarl.reproduce import task
from metarl.rollouts.episodes import Batch, Episodes
from metarl.run_folder import RunFolder
from metarl.runs import reproduce, train
from metarl.training.trainer import WINDOW, Trainer

CPU = torch.device("cpu")
M, E, T = 4, 2, 4
MakeBatch = Callable[..., Batch]
SETTINGS: dict[type, Any] = {MAML: MAMLSettings, Reptile: ReptileSettings, InContext: InContextSettings}
NAMES = [f"task {m}" for m in range(M)]
POINT = ["env=point2d", "env.horizon=5", "algo.tasks=4", "algo.episodes=2", "agent.hidden=[4]", "evaluate.tasks=2"]
MINIBATCHES = ["algo.outer.epochs=1", "algo.outer.minibatches=4"]


def learner_of(kind: type[Learner], policy: Policy, **inner: Any) -> Learner:
    inner = {"steps": 1, "rate": 0.1, "max_grad_norm": None} | inner
    if kind is MAML:
        inner = {"learn_rates": False, "unadapted_weight": 0.0} | inner
    outer = {} if kind is Reptile else {"learning_rate": 1e-3, "n_epochs": 1, "minibatches": 4}
    given = {"tasks": M, "episodes": E, "inner": inner, "outer": outer}
    settings = SETTINGS.get(kind, InContextSettings).model_validate(given)
    return kind(policy, settings, torch.Generator().manual_seed(0))


def finding(learner: Learner, rounds: list[Batch], start: dict[str, Tensor] | None = None) -> str:
    """What the search finds; it must leave the learner as it is."""
    before, generator = snapshot(learner), learner.generator.get_state()
    text = search_update(learner, start or before, rounds).text(NAMES)
    after = snapshot(learner)
    assert torch.equal(learner.generator.get_state(), generator)
    assert set(after) == set(before) and all(torch.equal(value, before[name]) for name, value in after.items())
    return text


def overflow(batch: Batch, task: int, sequence: int) -> Batch:
    """The batch with one likely action that was very unlikely when it was taken: its ratio is beyond any number."""
    changed = batch.log_probability.clone()
    changed[task, sequence, 0] = -2000.0
    return batch._replace(log_probability=changed, valid=torch.ones_like(batch.valid))


def spoiled(batch: Batch, field: str, *place: int) -> Batch:
    value = getattr(batch, field).clone()
    value[place] = torch.nan
    return batch._replace(**{field: value})


@pytest.mark.parametrize("kind", [MAML, Reptile])
@pytest.mark.parametrize("step", [0, 1])
def test_an_inner_gradient_is_named_with_its_task_and_step(
    tiny_policy: Policy, make_batch: MakeBatch, kind: type[Learner], step: int
) -> None:
    rounds = [make_batch(tiny_policy, M, E, T, seed) for seed in range(3)]
    rounds[step] = overflow(rounds[step], 2, 1)
    learner = learner_of(kind, tiny_policy, steps=2, rate=1e-3, adapt="head", max_grad_norm=1.0)
    named = next(iter(learner.rate_parameters))
    assert finding(learner, rounds).startswith(
        f"inner gradient of task 2 is not finite (step {step + 1}): {named} and "
    )


def test_later_inner_gradients_are_taken_at_the_tasks_own_parameters(
    tiny_policy: Policy, make_batch: MakeBatch
) -> None:
    first, second, last = (
        Batch(*(x.float() for x in make_batch(tiny_policy.float(), M, E, T, seed))) for seed in range(3)
    )
    push = torch.tensor([0.0, 0.0, 1e3, 0.0])[:, None, None]  # no other task moves
    rounds = [first._replace(inner_advantage=first.advantage * push), second, last]
    learner = learner_of(MAML, tiny_policy, steps=2)
    for rate in learner.rate_parameters.values():
        rate.fill_(88.0)  # exp(88) is nearly the largest number
    assert finding(learner, rounds).startswith("inner gradient of task 2 is not finite (step 2): ")


@pytest.mark.parametrize("first_order", [False, True])
def test_an_outer_gradient_is_named_with_its_task(
    tiny_policy: Policy, make_batch: MakeBatch, first_order: bool
) -> None:
    rounds = [make_batch(tiny_policy, M, E, T, 0), overflow(make_batch(tiny_policy, M, E, T, 1), 3, 0)]
    learner = learner_of(MAML, tiny_policy, rate=1e-3, first_order=first_order)
    assert finding(learner, rounds).startswith("outer gradient of task 3 is not finite: ")
    sound = [make_batch(tiny_policy, M, E, T, seed) for seed in range(2)]
    assert finding(learner, sound).startswith("something was not finite, but every part")


def test_an_outer_gradient_in_context_is_named_with_its_sequence(tiny_policy: Policy, make_batch: MakeBatch) -> None:
    learner = learner_of(InContext, tiny_policy)
    rounds = [overflow(make_batch(tiny_policy, M, E, T, 0), 1, 1)]
    assert finding(learner, rounds).startswith("outer gradient of task 1, sequence 1 is not finite: ")
    sound = [make_batch(tiny_policy, M, E, T, 0)]
    assert finding(learner, sound).startswith("something was not finite, but every part")


@pytest.mark.parametrize("kind", [MAML, Reptile, InContext])
@pytest.mark.parametrize(
    ("field", "place", "text"),
    # D = 3, A = 2: entries 3 and 4 of a token are the previous action, 5 is the previous feedback.
    [
        ("tokens", (1, 0, 2, 1), "observation entry 1 is not finite in task 1, sequence 0, control step 2"),
        ("tokens", (1, 0, 2, 4), "previous action is not finite in task 1, sequence 0, control step 2"),
        ("tokens", (1, 0, 2, 5), "previous feedback is not finite in task 1, sequence 0, control step 2"),
        ("actions", (3, 1, 0, 1), "action is not finite in task 3, sequence 1, control step 0"),
        ("log_probability", (3, 1, 3), "log probability is not finite in task 3, sequence 1, control step 3"),
        ("target", (0, 1, 2), "advantage is not finite in task 0, sequence 1, control step 2"),
        ("advantage", (2, 0, 1), "advantage is not finite in task 2, sequence 0, control step 1"),
    ],
)
def test_data_is_named_with_task_sequence_and_step(
    tiny_policy: Policy, make_batch: MakeBatch, kind: type[Learner], field: str, place: tuple[int, ...], text: str
) -> None:
    learner = learner_of(kind, tiny_policy)
    rounds = [make_batch(tiny_policy, M, E, T, seed) for seed in range(1 if kind is InContext else 2)]
    rounds[0] = spoiled(rounds[0], field, *place)
    # Whatever minibatch it is: normalising can have spread it to tasks that are not to blame.
    where = "" if kind is InContext else ", round 0"
    assert finding(learner, rounds) == text + where


def test_what_came_first_is_named(tiny_policy: Policy, make_batch: MakeBatch) -> None:
    learner = learner_of(MAML, tiny_policy)
    first, second = (make_batch(tiny_policy, M, E, T, seed) for seed in range(2))
    # An action at step 1 spoils the token after it; a reward at step 2 spoils the advantages of steps 0 to 2.
    chain = spoiled(spoiled(first, "actions", 1, 0, 1, 0), "tokens", 1, 0, 2, 3)
    chain = spoiled(chain, "actions", 0, 0, 3, 0)  # what comes later is not named
    for t in range(3):
        chain = spoiled(spoiled(chain, "target", 0, 1, t), "advantage", 0, 1, t)
    assert finding(learner, [chain, second]) == "action is not finite in task 1, sequence 0, control step 1, round 0"
    late = first
    for t in range(3):
        late = spoiled(late, "target", 0, 1, t)
    late = late._replace(advantage=torch.full_like(late.advantage, torch.nan))
    assert "advantage is not finite in task 0, sequence 1, control step 2" in finding(learner, [late, second])
    # An inner step that fails comes before the data that was collected after it.
    both = [overflow(first, 2, 0), spoiled(second, "actions", 2, 0, 0, 0)]
    assert finding(learner, both).startswith("inner gradient of task 2 ")


def test_the_policy_its_statistics_and_the_rates_are_named(tiny_policy: Policy, make_batch: MakeBatch) -> None:
    learner = learner_of(MAML, tiny_policy)
    rounds = [make_batch(tiny_policy, M, E, T, seed) for seed in range(2)]
    start = snapshot(learner)
    start["policy.normaliser.mean"][0] = torch.inf
    assert finding(learner, rounds, start) == "the policy itself is not finite: normaliser.mean"
    start, last = snapshot(learner), list(learner.rate_parameters)[-1]
    start[f"learner.log_rate.{last}"].fill_(1e4)
    assert finding(learner, rounds, start) == f"an inner rate is not finite: {last}"


def test_a_norm_beyond_any_number_is_told_from_gradients_that_are(
    tiny_policy: Policy, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(InContext, tiny_policy.float())
    batch = Batch(*(x.float() for x in make_batch(tiny_policy, M, E, T, 0)))
    sound = InContext.outer_loss
    monkeypatch.setattr(InContext, "outer_loss", lambda *arguments: sound(*arguments) * 1e25)
    assert finding(learner, [batch]).startswith(
        "the norm of the outer gradient is not finite, though that of each task"
    )


@pytest.mark.parametrize("kind", [MAML, InContext])
def test_tasks_that_are_sound_are_tried_without_a_step(
    tiny_policy: Policy, make_batch: MakeBatch, kind: type[Learner]
) -> None:
    outer = PPO(learning_rate=1e300, n_epochs=1, minibatches=1)
    settings = SETTINGS[kind].model_validate({"tasks": M, "episodes": E}).model_copy(update={"outer": outer})
    learner = kind(tiny_policy, settings, torch.Generator())
    first, last = (make_batch(tiny_policy, M, E, T, seed) for seed in range(2))
    rounds = [overflow(last, 3, 0)] if kind is InContext else [first, overflow(last, 3, 0)]
    assert finding(learner, rounds).startswith("outer gradient of task 3")


def test_an_algorithm_that_only_updates_is_searched_too(tiny_policy: Policy, make_batch: MakeBatch) -> None:
    class Idle(Learner):
        rounds = 2

        def update(self, rounds: Sequence[Batch]) -> dict[str, float]:
            return {"updates": 1.0, "skipped_updates": 1.0}

    learner = learner_of(Idle, tiny_policy, adapt="head")
    rounds = [make_batch(tiny_policy, M, E, T, seed) for seed in range(2)]
    assert finding(learner, rounds).startswith("something was not finite, but every part")
    named = next(iter(learner.rate_parameters))
    assert finding(learner, [overflow(rounds[0], 2, 1), rounds[1]]).startswith(
        f"inner gradient of task 2 is not finite (step 1): {named}"
    )


def test_a_search_in_the_midst_of_training_leaves_its_course(tiny_policy: Policy, make_batch: MakeBatch) -> None:
    learner = learner_of(MAML, tiny_policy, learn_rates=True)
    rounds = [make_batch(tiny_policy, M, E, T, seed) for seed in range(2)]
    learner.update(rounds)  # Adam remembers it
    start = snapshot(learner)
    broken = [rounds[0], overflow(rounds[1], 3, 0)]
    assert learner.update(broken)["skipped_updates"] == 1.0
    assert finding(learner, broken, start).startswith("outer gradient of task 3 is not finite: ")


def poison(
    monkeypatch: pytest.MonkeyPatch, kind: type[Learner], task: int, after: int = 0, every: int | None = None
) -> None:
    """Spoil what `prepare` makes of a task's episodes; after so many calls, and then each or every n-th of them."""
    calls = 0
    prepare = kind.prepare

    def spoil(self: Learner, episodes: Episodes) -> Batch:
        nonlocal calls
        calls += 1
        batch = prepare(self, episodes)
        return overflow(batch, task, 0) if calls > after and (every is None or calls % every == 0) else batch

    monkeypatch.setattr(kind, "prepare", spoil)


def test_one_bad_task_leaves_the_others_updates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(compose([*POINT, *MINIBATCHES]), CPU)
    poison(monkeypatch, MAML, 2)
    before = {name: value.detach().clone() for name, value in trainer.policy.named_parameters()}
    row = trainer.iterate()
    assert (row["updates"], row["skipped_updates"]) == (4.0, 1.0)  # a task for each minibatch
    after = dict(trainer.policy.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert trainer.failure is not None
    env = trainer.environments[8]
    assert env.tasks is not None
    expected = f"inner gradient of task 2 {env.tasks.describe(2)} is not finite (step 1): "
    assert trainer.failure.message.startswith(expected)
    assert trainer.troubles[-1] == trainer.failure.message


def test_a_sound_iteration_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any) -> None:
        raise AssertionError("searched without need")

    for name in ("search_update", "search_data"):
        monkeypatch.setattr(f"metarl.training.trainer.{name}", forbidden)
    trainer = Trainer(compose([*POINT, *MINIBATCHES]), CPU)
    assert trainer.iterate()["skipped_updates"] == 0.0
    assert trainer.failure is None and trainer.troubles == []


@pytest.mark.parametrize(
    ("algo", "kind", "text"),
    [
        ("maml", MAML, "inner gradient of task 2 {'goal': ["),
        ("reptile", Reptile, "inner gradient of task 2 {'goal': ["),
        ("multitask", InContext, "outer gradient of task 2 {'goal': ["),
    ],
)
def test_a_run_that_breaks_late_stops_soon_and_its_dump_breaks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str, kind: type[Learner], text: str
) -> None:
    sound = 12  # over the whole run, half of the updates would be skipped two iterations later
    settings = [*POINT, f"algo={algo}", "recipe=none", "budget.iterations=40", f"run_dir={tmp_path / 'run'}"]
    config = compose(settings + ["algo.outer.epochs=1", "algo.outer.minibatches=1"] * (algo != "reptile"))
    rounds = 1 if kind is InContext else config.algo.inner.steps + 1
    poison(monkeypatch, kind, 2, after=sound * rounds)
    with pytest.raises(TrainingError, match="% of the updates of the last 20 iterations were skipped: ") as caught:
        train(config)
    folder = RunFolder.open(tmp_path / "run")
    rows = folder.read_metrics()
    assert len(rows) == sound + WINDOW // 2 + 1
    assert all((row["skipped_updates"] == row["updates"]) == (number >= sound) for number, row in enumerate(rows))
    assert folder.iterations()[-1] == len(rows)
    dump = tmp_path / "run" / "dumps" / f"iteration-{len(rows):06d}"
    assert sorted(file.name for file in dump.iterdir()) == ["state.json", "tensors.safetensors"]
    message = str(caught.value)
    assert text in message and message.endswith(f"; to see it again: python -m metarl.reproduce dump={dump}")
    monkeypatch.undo()
    assert f"were skipped: {reproduce(dump)}; to see it again" in message


def test_a_short_run_that_only_skips_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, MAML, 1)
    with pytest.raises(TrainingError, match="100% of the updates of the last 2 iterations were skipped"):
        train(compose([*POINT, "algo.outer.minibatches=1", "budget.iterations=2", f"run_dir={tmp_path / 'run'}"]))


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dump of a run that skipped its only update."""
    with monkeypatch.context() as patch:
        poison(patch, MAML, 1)
        with pytest.raises(TrainingError):
            train(compose([*POINT, "algo.outer.minibatches=1", "budget.iterations=1", f"run_dir={tmp_path / 'run'}"]))
    return tmp_path / "run" / "dumps" / "iteration-000001"


def test_the_command_raises_the_error_of_the_dump(
    dump: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", f"dump={dump}"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main("reproduce", task)
    errors = capsys.readouterr().err
    assert exit.value.code == 1
    assert errors.startswith("error: inner gradient of task 1 {'goal': [")
    assert errors.count("\n") == 1


def test_a_dump_that_is_none_is_one_line(dump: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not the folder of a checkpoint or dump"):
        reproduce(tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / "iteration-000001"
    with pytest.raises(CheckpointError, match="is not a dump of this code: KeyError: 'config'") as caught:
        reproduce(checkpoint)
    assert "\n" not in str(caught.value)
    tensors = dump / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="truncated"):
        reproduce(dump)


def test_a_dump_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    folder = RunFolder.create(tmp_path / "run")
    monkeypatch.setattr("metarl.run_folder.checkpoints.move_in", full)
    with pytest.raises(Exception, match="make room on that disk"):
        folder.save_dump(3, {"policy.x": torch.ones(2)}, {"message": "text"})
    assert list((tmp_path / "run" / "dumps").iterdir()) == []


def test_evaluation_names_an_inner_step_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(compose([*POINT]), CPU)
    poison(monkeypatch, MAML, 3)
    env, tasks = make("point2d", 8, horizon=5), trainer.distribution.published("test", 4)
    with pytest.raises(NotFiniteError) as caught:
        adaptation_rounds(env, trainer.policy, trainer.learner, tasks, 1, torch.Generator())
    assert str(caught.value).startswith(f"inner gradient of task 3 {tasks.describe(3)} is not finite: ")
    # In steps after the first it is searched with the task's own parameters.
    start: Parameters = {n: x.expand(M, *x.shape).clone() for n, x in trainer.learner.parameters.items()}
    start["head.bias"][1] = torch.nan
    monkeypatch.undo()
    batch = trainer.learner.prepare(adaptation_episodes(trainer))
    text = search_inner_step(trainer.learner, {n: start[n] for n in trainer.learner.rate_parameters}, batch).text(NAMES)
    assert text.startswith("inner gradient of task 1 is not finite: ")


def adaptation_episodes(trainer: Trainer) -> Episodes:
    env = make("point2d", 8, horizon=5)
    rounds, _ = adaptation_rounds(
        env, trainer.policy, trainer.learner, trainer.distribution.published("test", 4), 0, torch.Generator()
    )
    return rounds[0]


def test_the_console_names_each_kind_of_trouble_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, MAML, 1, every=6)
    train(compose([*POINT, *MINIBATCHES, "budget.iterations=9", "report=page", f"run_dir={tmp_path / 'run'}"]))
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: iteration 3: ") and "gradient of task 1 {'goal': [" in lines[0]
