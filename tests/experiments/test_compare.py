"""The comparison: who trains what by which commands, and nothing is trained twice."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments.compare import fine_tuning, scratch, training
from experiments.compare.__main__ import SMALL, made_by, main, read
from experiments.compare.comparison import Comparison
from experiments.compare.contenders import Contender, contenders, jobs_of, seeds_of
from experiments.compare.contrasts import Result
from experiments.compare.fine_tuning import METHODS
from experiments.compare.per_task import packed
from experiments.compare.plan import Plan
from experiments.compare.training import settle
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError, MetaRLError, NotFiniteError
from metarl.run_folder import RunFolder
from metarl.runs import train

RATES = tuple(choice["rate"] for choice in METHODS["sgd"].grid)
TUNED = Contender(tuned="sgd")
MAML = "in_context+maml"
TINY = (*SMALL, "env.horizon=5", "algo.outer.n_epochs=1", "threads=1", "device=cpu")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Everything of seed 0 on a tiny reach, trained."""
    made = Plan("reach", tmp_path_factory.mktemp("compare"), (0,), TINY, 1)
    comparison = Comparison(made, Console(quiet=True), True, "compare")
    for name in ("in_context", "in_context_equal", MAML, "multitask"):
        comparison.train(name, 0)
    return made


def policy(folder: Path, iteration: int | None = None) -> dict[str, torch.Tensor]:
    tensors = RunFolder(folder).load_checkpoint(iteration).tensors
    return {name: value for name, value in tensors.items() if name.startswith("policy.")}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_copied_and_continued_run_is_the_uninterrupted_one(plan: Plan, tmp_path: Path) -> None:
    job = plan.fresh("in_context", "in_context", 0)
    straight = train(compose([*job.settings, job.budget, f"run_dir={tmp_path / 'straight'}"]))
    assert same(policy(straight), policy(plan.folder("in_context", 0)))
    assert RunFolder(straight).iterations()[-1] == 2
    assert not same(policy(straight), policy(plan.folder("warm", 0)))
    # With the same clock readings in its first row: that iteration was not trained a second time.
    rows = [RunFolder(plan.folder(name, 0)).read_metrics() for name in ("warm", "in_context", "in_context_equal")]
    assert rows[0] == rows[1][:1] == rows[2][:1] and rows[1] == rows[2][:2]


def test_maml_begins_with_the_warm_start_and_steps_are_made_equal(plan: Plan) -> None:
    maml, warm = plan.folder(MAML, 0), plan.folder("warm", 0)
    origin = RunFolder(maml).read_config()["algo"]["warm_start"]["origin"]
    assert origin["iteration"] == RunFolder(warm).iterations()[-1] == 1
    steps = {name: RunFolder(plan.folder(name, 0)).read_metrics()[-1]["env_steps"] for name in (MAML, "multitask")}
    equal = RunFolder(plan.folder("in_context_equal", 0)).read_metrics()[-1]["env_steps"]
    wanted = plan.env_steps("maml")
    assert steps[MAML] == wanted == 4 * 5 + 2 * 4 * 8 * 5
    assert equal == steps["multitask"] == wanted
    seconds = RunFolder(maml).read_metrics()[-1]["seconds"]
    assert training.cost(RunFolder(maml)) == (wanted, seconds + origin["seconds"])


def test_what_is_finished_is_loaded_and_what_is_not_goes_on(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(training, "train", lambda settings: done.append(settings) or train(settings))
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    comparison = Comparison(plan, Console(quiet=True), True, "compare")
    for name in ("in_context", MAML, "multitask"):
        comparison.train(name, 0)
    assert not done
    results = {result.contender: result for result in comparison.results()}
    assert set(results) == {"in_context", "in_context_equal", MAML, "multitask"}
    assert [entry["step"] for entry in results["multitask"].evaluations["test"]["curve"]] == [0, 1, 2, 3]
    assert [entry["step"] for entry in results[MAML].evaluations["ood"]["curve"]] == [0, 1, 2, 3]
    (evaluation := plan.folder(MAML, 0) / "evaluation" / "test.json").rename(evaluation.with_suffix(".away"))
    try:
        assert MAML not in {result.contender for result in comparison.results()}
        settle(jobs_of(plan, MAML, 0)[-1])
    finally:
        evaluation.with_suffix(".away").rename(evaluation)
    assert [settings.resume for settings in done] == [str(plan.folder(MAML, 0))]


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(plan: Plan, tmp_path: Path) -> None:
    other = Plan(plan.env, tmp_path, plan.seeds, TINY, 1)
    job = other.warm(0)
    job.folder.mkdir(parents=True)
    shutil.copy(plan.folder("warm", 0) / "config.yaml", job.folder)
    assert same(policy(settle(job).path), policy(plan.folder("warm", 0)))


def test_a_run_with_other_settings_is_no_result(plan: Plan) -> None:
    other = Plan(plan.env, plan.runs, plan.seeds, (*TINY, "algo.gamma=0.5"), 1)
    with pytest.raises(MetaRLError, match=r"was trained with algo.gamma=0.95, not 0.5: move it away"):
        settle(jobs_of(other, "in_context", 0)[-1])


def test_what_others_learned_with_other_settings_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(settings: Any, folder: Path, *_: Any) -> dict[str, Any]:
        return {"tasks": 10, "tuned": {}, "seconds": 1.0, "env_steps": 10}

    monkeypatch.setattr(scratch, "evaluation", learned)
    plan = Plan("reach", tmp_path, (0,), TINY, 1)
    for small, there in ((TINY, True), ((*TINY, "algo.gamma=0.5"), False)):
        comparison = Comparison(replace(plan, small=small), Console(quiet=True), True, "compare")
        if there:
            comparison.train("ppo_scratch_1x", 0)
        else:
            with pytest.raises(MetaRLError, match="ppo_scratch_1x-0 was made with other settings: move it away"):
                comparison.train("ppo_scratch_1x", 0)
        assert [result.contender for result in comparison.results()] == ["ppo_scratch_1x"] * there


OTHERWISE = [{"tasks": 3}, {"seed": 1}, {"deterministic": True}, {"edition": 1}, {"iteration": 8}]


@pytest.mark.parametrize("other", OTHERWISE)
def test_what_was_measured_otherwise_is_measured_again(other: dict[str, object]) -> None:
    wanted = {"iteration": 9, "tasks": 100, "seed": 0, "deterministic": False, "edition": 2}
    said: dict[str, Any] = {**wanted, "curve": [{"step": 0}, {"step": 3}]}
    folder: Any = SimpleNamespace(read_evaluation=lambda split: said)
    assert training.measured(folder, "test", 3, wanted) and not training.measured(folder, "test", 2, wanted)
    said |= other
    assert not training.measured(folder, "test", 3, wanted)
    del said[next(iter(other))]
    assert training.measured(folder, "test", 3, wanted) == ("edition" in other)


def test_the_rate_of_fine_tuning_is_that_of_the_greatest_return(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metarl.assembly.opened import open_run

    run = open_run(shutil.copytree(plan.folder("multitask", 0), tmp_path / "run"))
    values = {1e-3: (0.5, 9.0), 1e-2: (0.5, 10.0), 1e-1: (0.2, 20.0), 1.0: (0.6, -30.0)}
    seen = []

    def outcome(changed: Any) -> tuple[float, float]:
        inner = changed.learner.settings.inner
        assert (inner.steps, inner.max_grad_norm) == (2, 1.0)
        seen.append(inner.rate)
        return values[inner.rate]

    monkeypatch.setattr(fine_tuning, "outcome", outcome)
    assert run.folder.read_evaluation("fine_tuning")["rate"] in RATES
    (run.folder.path / "evaluation" / "fine_tuning.json").unlink()
    for _ in range(2):  # chosen once
        chosen = fine_tuning.fine_tuned(run, "sgd", Console(quiet=True), 2)
        assert chosen.learner.settings.inner.rate == pytest.approx(1e-1)
        assert float(next(iter(chosen.learner.rates().values()))) == pytest.approx(1e-1)
    assert seen == list(RATES)


def test_the_gradient_steps_that_are_measured_can_be_chosen(plan: Plan, tmp_path: Path) -> None:
    runs = shutil.copytree(plan.runs, tmp_path / "runs")

    def last_steps(steps: int | None) -> tuple[dict[tuple[str, str], int], list[str]]:
        changed = replace(plan, runs=runs, steps=steps)
        results = Comparison(changed, Console(quiet=True), True, "compare").results()
        last = {
            (r.contender, split): r.evaluations[split]["curve"][-1]["step"]
            for r in results
            for split in ("test", "ood")
        }
        return last, [line for r in results if r.contender == MAML for line in r.commands]

    gradient = (MAML, "multitask")
    for steps, expected in ((1, 1), (None, 3)):
        last, commands = last_steps(steps)
        assert {key: value for key, value in last.items() if key[0] in gradient} == {
            (name, split): expected for name in gradient for split in ("test", "ood")
        }
        assert {value for key, value in last.items() if key[0] not in gradient} == {0}
        assert RunFolder(runs / plan.env / "multitask-0").read_evaluation("fine_tuning")["steps"] == expected
        run = f"python -m metarl.evaluate run={runs / plan.env / 'in_context+maml-0'} split="
        wanted = [f"{run}test steps=1", f"{run}ood steps=1"] if steps else [f"{run}ood"]
        assert [line for line in commands if "metarl.evaluate" in line] == wanted


def test_a_rate_chosen_otherwise_is_chosen_anew_from_what_was_measured(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.open(shutil.copytree(plan.folder("multitask", 0), tmp_path / "run"))
    choice, before = folder.read_evaluation("fine_tuning"), folder.read_evaluation("test")
    other = max(RATES) if choice["rate"] < max(RATES) else min(RATES)
    folder.write_evaluation("fine_tuning", choice | {"rate": other})
    folder.write_evaluation("test", before | {"horizon": 7})
    monkeypatch.setattr(fine_tuning, "outcome", lambda _: pytest.fail("measured again"))
    training.measure(folder, TUNED, Console(quiet=True))
    assert folder.read_evaluation("fine_tuning") == choice
    assert folder.read_evaluation("test")["horizon"] == before["horizon"] != 7


@pytest.mark.parametrize("changed", [{"iteration": 1}, {"steps": 1}, {"clip": 2.0}, {"split": "train"}, {"grid": []}])
def test_another_choice_of_the_rate_discards_what_was_measured_with_the_last(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    folder = RunFolder.open(shutil.copytree(plan.folder("multitask", 0), tmp_path / "run"))
    choice, before = folder.read_evaluation("fine_tuning"), folder.read_evaluation("test")
    other = max(RATES) if choice["rate"] < max(RATES) else min(RATES)
    monkeypatch.setattr(fine_tuning, "outcome", lambda run: (0.0, float(run.learner.settings.inner.rate == other)))
    training.measure(folder, TUNED, Console(quiet=True))
    assert folder.read_evaluation("fine_tuning") == choice and folder.read_evaluation("test") == before
    folder.write_evaluation("fine_tuning", choice | changed)
    training.measure(folder, TUNED, Console(quiet=True))
    assert folder.read_evaluation("fine_tuning")["rate"] == other
    assert folder.read_evaluation("test")["curve"][0] == before["curve"][0]
    assert folder.read_evaluation("test")["curve"][-1] != before["curve"][-1]


def test_the_outcome_of_a_rate_is_that_of_the_last_step(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from metarl.assembly.opened import open_run

    last = SimpleNamespace(success_at_end=torch.tensor([True, False]), returns=torch.tensor([3.0, 5.0]))
    monkeypatch.setattr(fine_tuning, "adaptation_rounds", lambda *_: ([None, last], []))
    run = METHODS["sgd"].apply(open_run(plan.folder("multitask", 0)), {"rate": 0.1}, 3)
    assert fine_tuning.outcome(run) == (0.5, 4.0)


def test_fine_tuning_is_tried_on_validation_tasks(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from metarl.assembly.opened import open_run

    run, tried = open_run(plan.folder("multitask", 0)), []
    sound = fine_tuning.adaptation_rounds
    monkeypatch.setattr(fine_tuning, "adaptation_rounds", lambda *a: tried.append(a[3:5]) or sound(*a))
    fine_tuning.outcome(METHODS["sgd"].apply(run, {"rate": 0.1}, 2))
    ((tasks, steps),) = tried
    assert steps == 2
    assert set(run.environment(1, 0, 1).distribution.split_of(tasks)) == {"validation"}


def test_a_rate_that_gives_no_numbers_is_never_the_best(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from metarl.assembly.opened import open_run

    def broken(*arguments: Any) -> None:
        raise NotFiniteError("inner gradient of task 0 is not finite")

    monkeypatch.setattr(fine_tuning, "adaptation_rounds", broken)
    run = METHODS["sgd"].apply(open_run(plan.folder("multitask", 0)), {"rate": 0.1}, 3)
    assert max(fine_tuning.outcome(run)) == -math.inf


def test_the_plan_of_the_defaults() -> None:
    reach = Plan("reach", Path("runs/compare"), (0, 1, 2))
    assert reach.shared() == 250
    warm = "env=reach algo=in_context seed=1 budget.iterations=250 run_dir=runs/compare/reach/warm-1"
    assert [job.commands() for job in jobs_of(reach, "in_context", 1)] == [
        [f"python -m metarl.train {warm}"],
        [
            "cp -r runs/compare/reach/warm-1 runs/compare/reach/in_context-1",
            "python -m metarl.train resume=runs/compare/reach/in_context-1 budget.iterations=350",
        ],
    ]
    (line,) = jobs_of(reach, MAML, 1)[-1].commands()
    assert "algo.warm_start.run=runs/compare/reach/warm-1 budget.iterations=100 " in line
    assert (reach.env_steps("maml"), reach.env_steps("in_context")) == (4_500_000, 3_500_000)
    seeds = [seeds_of(reach, name) for name in (MAML, "in_context_equal", "in_context+fomaml")]
    assert seeds == [(0, 1, 2), (0, 1, 2), (0,)]
    ant = Plan("ant_goal", Path("runs"), (0,))
    assert "agent.initial_std=0.25" in jobs_of(ant, "multitask", 0)[0].settings  # as its recipes have it
    assert ant.shared() == 300
    settings = jobs_of(ant, "multitask", 0)[0].settings
    assert {"algo.tasks=64", "algo.gamma=0.97", "algo.outer.minibatches=8"} <= set(settings)
    cheetah = Plan("cheetah_dir", Path("runs"), (0,))
    assert cheetah.shared() == 0  # MAML alone begins with nothing
    assert {"in_context", "maml", "multitask"} < set(contenders(cheetah))


def test_a_warm_start_by_other_settings_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    reach = Plan("reach", Path("runs"), (0,))
    sound = Plan.config

    def changed(self: Plan, algo: str, *overrides: str) -> TrainSettings:
        extra = ("algo.warm_start.settings.gamma=0.9",) if algo == "maml" else ()
        return sound(self, algo, *overrides, *extra)

    monkeypatch.setattr(Plan, "config", changed)
    assert reach.shared() == 0
    assert [job.contender for job in jobs_of(reach, MAML, 0)] == [MAML]


@pytest.mark.parametrize(("episodes", "horizon", "updates"), [(10, 50, 5), (20, 10, 2)])
def test_ppo_gets_its_episodes_and_no_more(episodes: int, horizon: int, updates: int) -> None:
    config = compose(["env=reach", f"env.horizon={horizon}", "threads=1", "algo=in_context"])
    result = scratch.learn(config, 1, episodes)
    assert result["env_steps"] == episodes * horizon
    assert result["gradient_steps"] == updates * scratch.GRID[0]["n_epochs"] * scratch.MINIBATCHES
    env = scratch.task_env(config, "test", 1, 0)
    env.reset()
    published = env.environment.distribution.published("test", 2)
    assert env.environment.tasks is not None
    for name, value in env.environment.tasks.values.items():
        assert torch.equal(value, published[name][1:].expand_as(value)), name
    assert result["before"] != result["after"]


def test_tasks_that_ppo_has_learned_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []

    def learn(settings: TrainSettings, task: int, episodes: int, tuned: Any, split: str = "test") -> dict[str, Any]:
        learned.append((split, task, tuned["learning_rate"]))
        before, after = ({"success": s, "success_any_step": s, "return": s} for s in (0.0, 0.1 * task))
        known = {"task": {}, "env_steps": 50, "seconds": 2.0, "gradient_steps": 8}
        return known | {"before": before, "after": after}

    monkeypatch.setattr(scratch, "learn", learn)
    config = compose(["env=reach", "algo=in_context"])
    for tasks in (2, 3):
        content = scratch.evaluation(config, tmp_path / "ppo", 10, tasks, Console(quiet=True))
    # The rate is chosen on validation tasks, once for each of the numbers of tasks.
    assert [split for split, *_ in learned].count("validation") == 2 * len(scratch.GRID)
    best = json.loads((tmp_path / "ppo" / "tuning.json").read_bytes())["chosen"]
    assert [each for each in learned if each[0] == "test"] == [("test", n, best["learning_rate"]) for n in range(3)]
    assert content["curve"][1]["success"]["mean"] == pytest.approx(0.1)
    assert [(entry["step"], entry["episodes"]) for entry in content["curve"]] == [(0, 0), (8, 10)]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["env=reachh"], "env=reachh: unknown environment; did you mean 'reach'"),
        (["env=reach", "onlly=maml"], "onlly=maml: unknown argument; did you mean 'only'"),
        (["env=reach", "only=oracel"], "only=oracel: is not a contender on reach; did you mean 'oracle'"),
        (["env=push", "only=oracle"], "only=oracle: is not a contender on push"),
        (["env=reach", "seeds=a"], "seeds=a: must be integers"),
        (["env=reach", "steps=0"], "steps=0: must be one integer from 1"),
        (["env=reach", "steps=1,2"], "steps=1,2: must be one integer from 1"),
        (["env=reach", "quick=1"], "quick=1: must be true or false"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(arguments)
    assert text in str(caught.value)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {caught.value}\n"


def test_what_is_asked_for() -> None:
    asked = read(["env=grasp", "only=multitask"])
    assert (asked.plan.seeds, asked.chosen, asked.quick) == ((0, 1, 2), ("multitask",), False)
    assert asked.command == "python -m experiments.compare env=grasp"
    assert read(["env=push"]).plan.seeds == (0,)
    assert asked.plan.steps is None and read(["env=grasp", "steps=5"]).plan.steps == 5
    quick = read(["env=grasp", "quick=true"])
    assert quick.plan.runs != asked.plan.runs and quick.out != asked.out  # no toy among the results


def test_the_command_that_is_printed_makes_what_is_there() -> None:
    def results(**seeds: tuple[int, ...]) -> list[Result]:
        return [Result(name, seed, 1.0, 1.0, {}, []) for name, own in seeds.items() for seed in own]

    asked, start = (
        read(["env=push", "seeds=3", "only=none", "steps=2"]),
        "python -m experiments.compare env=push steps=2",
    )
    assert asked.chosen == ()
    uneven = results(in_context=(0, 1), oracle=(0,), multitask=(0, 1))
    assert made_by(asked, uneven) == f"{start} seeds=0,1 only=in_context,multitask && {start} only=oracle"
    everybody = dict.fromkeys(contenders(asked.plan), (0,))
    assert made_by(asked, results(**everybody)) == start


def test_results_that_cannot_be_kept_are_found_out_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[object] = []
    monkeypatch.setattr(Comparison, "train", lambda *job: trained.append(job))
    (tmp_path / "file").write_text("")
    (tmp_path / "push.json").write_text('{"contenders": {"oracle": {"runs": [{"seed": 0}]}}}')
    for name, content in (("push-tasks.json.gz", b"\x1f\x8b"), ("push-tasks.json.gz", packed({}))):
        (tmp_path / name).write_bytes(content)
        assert main(["env=push", f"out={tmp_path}"]) == 2
        assert f"error: {tmp_path}/push.json and -tasks.json.gz cannot be read (" in capsys.readouterr().err
    assert main(["env=push", f"out={tmp_path / 'file'}"]) == 2
    assert capsys.readouterr().err == f"error: out={tmp_path / 'file'}: File exists\n" and not trained


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "train", stop)
    arguments = ["env=reach", f"runs={tmp_path}"]
    assert main(arguments) == 130
    expected = f"stopped; continue with: python -m experiments.compare {' '.join(arguments)}"
    assert expected in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "quick" in capsys.readouterr().out
