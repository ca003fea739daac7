"""Policies that come with the package: how they are made, found and used, and that each keeps what it promises."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
import yaml
from rich.console import Console

import envs  # noqa: F401  (registers the Gymnasium environments)
import metarl
from experiments.ship import main, ship
from metarl.assembly.opened import open_run
from metarl.assembly.repeat import commands
from metarl.assembly.trust import stored_settings
from metarl.config.composition import compose
from metarl.errors import ConfigError, RunFolderError
from metarl.evaluation.curve import adaptation_rounds, per_task
from metarl.evaluation.films import render
from metarl.pages.card import LICENCE, model_card
from metarl.run_folder import RunFolder, pretrained
from metarl.runs import evaluate, train
from tests.envs.metaworld_tasks import needs_package

SIZE = ["env=reach", "env.horizon=6", "agent.width=8", "agent.layers=1", "threads=1", "device=cpu"]
EVALUATION = ["evaluate.tasks=3", "evaluate.episodes_per_step=2", "report=page"]
SETTINGS = [*SIZE, *EVALUATION, "algo=maml", "algo.tasks=2", "algo.episodes=2", "algo.outer.epochs=1"]
WARM = ["algo.warm_start.iterations=1", "algo.warm_start.settings.tasks=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of reach: one iteration in context, one of MAML."""
    folder = tmp_path_factory.mktemp("runs") / "reach"
    return train(compose([*SETTINGS, *WARM, "budget.iterations=2", f"run_dir={folder}"]))


@pytest.fixture
def shelf(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped policies, with this one; the working folder is an empty one beside it."""
    monkeypatch.setattr(pretrained, "ROOT", tmp_path / "installed" / "pretrained")
    ship(trained)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return pretrained.ROOT


def test_what_is_shipped(trained: Path, shelf: Path) -> None:
    folder = shelf / "reach-maml"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    checkpoint = "checkpoints/iteration-000002"
    assert files == {
        "COMMAND",
        "README.md",
        "config.yaml",
        *(f"{checkpoint}/{name}" for name in ("tensors.safetensors", "state.json")),
        *(f"evaluation/{split}.{suffix}" for split in ("test", "ood") for suffix in ("json", "csv")),
    }
    tensors, whole = (RunFolder(path).load_checkpoint().tensors for path in (folder, trained))
    assert not [name for name in tensors if "optimiser" in name or "generator" in name]
    assert all(torch.equal(value, whole[name]) for name, value in tensors.items())
    assert (folder / "evaluation" / "test.json").read_bytes() == (trained / "evaluation" / "test.json").read_bytes()
    assert not list(shelf.glob(".*"))


def test_it_acts_as_the_run_does(trained: Path, shelf: Path) -> None:
    for name in ("reach", "reach-maml", str(trained)):
        agent = metarl.load(name, "cpu")
        env = gymnasium.make("metarl/Reach-v0", horizon=6)
        env.reset(seed=0)
        adapted = agent.adapt(env, episodes=2, steps=1)
        observation, _ = env.reset(seed=1)
        action, _ = adapted.predict(observation)
        if name == "reach":
            first = action
        assert (action == first).all()
        rates = agent.run.learner.rates()
        assert all(not torch.equal(rate, torch.tensor(0.003)) for rate in rates.values()), "the rates were learned"


def test_the_commands_take_it_and_write_into_the_working_folder(shelf: Path) -> None:
    before = sorted(shelf.rglob("*"))
    run = open_run("pretrained/reach", "cpu")
    quiet = Console(quiet=True)
    options = {"tasks": 2, "steps": 1, "episodes": 2, "seed": 0, "deterministic": False, "threads": 1}
    evaluate(run, split="test", console=quiet, **options)  # type: ignore[arg-type]
    assert Path("pretrained-reach-maml/evaluation/test.json").exists()
    assert Path("pretrained-reach-maml/evaluation/test.png").exists()
    picture = {"width": 32, "height": 24, "fps": None, "seed": 0, "threads": 1}
    path = render(run, split="test", task=0, out=None, **picture)  # type: ignore[arg-type]
    assert path == Path("pretrained-reach-maml/videos/test-task-0.mp4") and path.exists()
    assert sorted(shelf.rglob("*")) == before
    assert open_run("pretrained/reach-maml", "cpu").folder.path == shelf / "reach-maml"


@pytest.mark.parametrize("name", ["pretrained/graspp", "pretrained/reachh"])
def test_a_name_that_is_not_there_lists_those_that_are(name: str, shelf: Path) -> None:
    with pytest.raises(RunFolderError, match=r"valid: reach, reach-maml\)$"):
        open_run(name)
    with pytest.raises(RunFolderError, match=r"valid: reach, reach-maml\)$"):
        metarl.load(name.removeprefix("pretrained/"))


def test_a_run_of_that_name_comes_first(trained: Path, shelf: Path) -> None:
    shutil.copytree(trained, "reach")
    assert metarl.load("reach", "cpu").run.folder.path == Path("reach")
    shutil.copytree(trained, "pretrained/reach")
    assert open_run("pretrained/reach").folder.path == Path("pretrained/reach")
    with pytest.raises(RunFolderError, match="there is no run at runs/reach"):
        open_run("runs/reach")
    with pytest.raises(RunFolderError, match="there is no run at reach-maml"):
        open_run("reach-maml")  # only `load` takes the name alone


def test_it_cannot_be_resumed_but_begun_from(shelf: Path) -> None:
    with pytest.raises(
        RunFolderError, match="begin from its policy with algo.warm_start.run=pretrained/reach"
    ) as caught:
        train(compose(["resume=pretrained/reach"]))
    assert "\n" not in str(caught.value)
    shutil.copytree(shelf / "reach-maml", "copied")
    with pytest.raises(RunFolderError, match="^copied lacks what training needs to go on"):
        train(compose(["resume=copied"]))
    train(compose([*SETTINGS, "algo.warm_start.run=pretrained/reach", "budget.iterations=1", "run_dir=ours"]))
    assert RunFolder("ours").read_config()["algo"]["warm_start"]["origin"]["iteration"] == 2


def test_the_command_that_made_it(trained: Path, shelf: Path) -> None:
    line = (shelf / "reach-maml" / "COMMAND").read_text().strip()
    prefix = "python -m metarl.train "
    assert line.startswith(f"{prefix}env=reach algo=maml ")
    ours, theirs = compose(line.removeprefix(prefix).split()).plain(), RunFolder(trained).read_config()
    assert all(ours[key] == theirs[key] for key in ours.keys() - {"report"}), "how it ended is another matter"


def test_the_commands_of_a_run_that_began_from_another(trained: Path, shelf: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, f"algo.warm_start.run={trained}", "budget.iterations=1", f"run_dir={tmp_path / 'ours'}"]
    config = stored_settings(RunFolder(train(compose(settings))))
    first, second = commands(config, 1, Path("runs/ours"))
    given = (ship(tmp_path / "ours", "reach-ours") / "COMMAND").read_text().splitlines()
    assert given == commands(config, 1, tmp_path / "ours")
    assert first == commands(stored_settings(RunFolder(trained)), 2, trained)[0]
    assert f"algo.warm_start.run={trained}" in second and "algo.warm_start.iterations" not in second
    warm = config.algo.warm_start.model_copy(update={"run": "away"})
    config = config.model_copy(update={"algo": config.algo.model_copy(update={"warm_start": warm})})
    assert commands(config, 1, Path("x"))[0] == (
        "python -m metarl.train env=reach algo=maml seed=0 budget.iterations=2 run_dir=away"
    )


def test_the_first_of_an_environment_is_its_default(trained: Path, shelf: Path) -> None:
    ship(trained, "reach-other")
    assert pretrained.defaults() == {"reach": "maml"}
    ship(trained, "reach-other", default=True)
    assert pretrained.names()["reach"] == shelf / "reach-other"
    with pytest.raises(ConfigError, match="name=grasp-maml: must begin with reach-"):
        ship(trained, "grasp-maml")


def test_an_evaluation_of_another_checkpoint_is_not_shipped(trained: Path, shelf: Path, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    shutil.copytree(trained, stale)
    path = stale / "evaluation" / "test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"iteration": 1}))
    with pytest.raises(RunFolderError, match="on 'test' is of another checkpoint; measure again: python -m metarl.ev"):
        ship(stale)


@pytest.mark.parametrize("arguments", [["runn=x"], ["name=x"], ["run=nowhere"], ["run=x", "default=1"]])
def test_a_mistake_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")


def check_claim(folder: Path, tasks: int = 20, episodes: int = 3) -> None:
    """The success on the first test tasks, measured anew, is within four standard errors of what the folder claims."""
    claim: dict[str, Any] = RunFolder(folder).read_evaluation("test")
    run = open_run(folder, "cpu")
    tasks, steps = min(tasks, claim["tasks"]), claim["curve"][-1]["step"]
    episodes = max(episodes, claim["episodes_per_step"] if steps else 0)  # what a step learns from
    env = run.environment(tasks * episodes, seed=12345)
    generator = torch.Generator().manual_seed(6789)
    chosen = run.held_out("test", tasks)
    rounds, _ = adaptation_rounds(env, run.policy, run.learner, chosen, steps, generator, claim["deterministic"])
    for entry, measured in ((0, rounds[0]), (-1, rounds[-1])):
        claimed = torch.tensor([task["success"][entry] for task in claim["per_task"][:tasks]])
        mean, found = float(claimed.mean()), float(per_task(measured.success_at_end)[:, entry].mean())
        count = tasks * episodes
        # Two failures may always be chance.
        error = math.sqrt(mean * (1 - mean) / count) + 2 / count
        assert abs(found - mean) < 4 * error, f"entry {entry}: claimed {mean:.3f}, measured {found:.3f}"


SHIPPED = [
    pytest.param(path.parent.name, marks=[needs_package] if path.parent.name.startswith("metaworld") else [])
    for path in sorted(pretrained.ROOT.glob("*/config.yaml"))
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_keeps_its_promise(name: str) -> None:
    folder = pretrained.ROOT / name
    assert (folder / "COMMAND").read_text().startswith("python -m metarl.train ")
    check_claim(folder)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_of_a_shipped_policy_tells_what_its_folder_holds(name: str) -> None:
    run = open_run(pretrained.ROOT / name, "cpu")
    lines = (run.folder.path / "COMMAND").read_text().splitlines()
    text = (run.folder.path / "README.md").read_text()
    splits = ("test", *(["ood"] if run.has("ood") else []))
    evaluations = {split: run.folder.read_evaluation(split) for split in splits}
    assert text == model_card(run, name, evaluations=evaluations, commands=lines, licence=LICENCE)
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert (told["library_name"], told["license"]) == ("metarl", "apache-2.0") and run.settings.env.name in told["tags"]
    (index,) = told["model-index"]
    assert index["name"] == name
    for result in index["results"]:
        last = evaluations[result["dataset"]["split"]]["curve"][-1]
        success, _ = result["metrics"]
        low, high = last["success"]["ci95"]
        assert success["value"] == pytest.approx(last["success"]["mean"], abs=1e-4)
        assert f"[{low:.3f}, {high:.3f}]" in success["name"]
        assert f"| {last['success']['mean']:.3f} [{low:.3f}, {high:.3f}] |" in body
    assert f'metarl.load("{name}")' in body and body.count("```") == 2
    assert f"state, {'reward' if run.fed_the_reward else 'feedback'}=felt)" in body


def test_a_card_of_ones_own(trained: Path) -> None:
    text = model_card(open_run(trained, "cpu"), "mine", evaluations={}, usage="```sh\nuse it\n```", note="It is blue.")
    assert "license" not in text and "## Licence" not in text and "It was not evaluated." in text
    assert "use it" in text and "metarl.load" not in text and "It is blue." in text
    assert f"run_dir={trained}" in text


def test_every_default_is_there() -> None:
    assert {f"{env}-{algo}" for env, algo in pretrained.defaults().items()} <= set(pretrained.names())


def test_a_false_promise_is_found_out(shelf: Path) -> None:
    folder = shelf / "reach-maml"
    check_claim(folder)
    path = folder / "evaluation" / "test.json"
    content = json.loads(path.read_text())
    for task in content["per_task"]:
        task["success"] = [1.0 for _ in task["success"]]
    path.write_text(json.dumps(content))
    with pytest.raises(AssertionError, match="claimed 1.000, measured 0.000"):
        check_claim(folder, tasks=20, episodes=8)
