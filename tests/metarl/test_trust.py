"""No code runs because a run names it, unless it is this project's own or the user has said to trust it."""

import html
import importlib
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

import metarl
from envs.errors import UnknownEnvironmentError
from metarl import runs
from metarl.assembly import trust
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.errors import KNOWN, RunFolderError
from metarl.evaluation.films import render_run
from metarl.pages.report import write_report
from metarl.run_folder import RunFolder
from metarl.runs import train

TINY = ["env.horizon=5", "algo.tasks=2", "algo.episodes=2", "algo.outer.epochs=1", "evaluate.tasks=2", "device=cpu"]
TINY += ["evaluate.episodes_per_step=2", "evaluate.steps=1", "budget.iterations=1", "agent.hidden=[4]", "report=page"]
# Imported, each says so in a file beside it.
EVIL = """
from pathlib import Path
Path(__file__).with_name("executed").touch()
from envs.families.point2d import Point2d
from agents.mlp import MLPPolicy
from agents.settings import MLPSettings
from metarl.algorithms.maml import MAML
from metarl.config.algorithms import MAMLSettings

class E(Point2d):
    pass

class Policy(MLPPolicy):
    Settings = MLPSettings

class Algorithm(MAML):
    Settings = MAMLSettings
"""


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of point2d."""
    return train(compose(["env=point2d", *TINY, f"run_dir={tmp_path_factory.mktemp('runs') / 'point'}"]))


@pytest.fixture
def run(point: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with evil modules beside it, where the reader stands; all that this test did is then forgotten."""
    path = Path(shutil.copytree(point, tmp_path / "run"))
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trust, "_named", set())
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    importlib.invalidate_caches()
    return path


def put(run: Path, group: str, entry: str) -> None:
    """Have a run name something as its environment, algorithm or policy."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[group]["entry"] = entry
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


USES: dict[str, Callable[[str, list[str]], object]] = {
    "evaluate": lambda run, word: runs.evaluate_run(compose([f"run={run}", "tasks=2", *word], "evaluate")),
    "render": lambda run, word: render_run(
        compose([f"run={run}", "out=film.gif", "width=32", "height=32", *word], "render")
    ),
    "resume": lambda run, word: train(compose([f"resume={run}", "budget.iterations=2", *word])),
    "load": lambda run, word: metarl.load(run, "cpu", trust=word[0].partition("=")[2] if word else ()),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("group", "entry"), [("env", "E"), ("agent", "Policy"), ("algo", "Algorithm")])
def test_a_module_beside_the_run_needs_the_users_word(run: Path, group: str, entry: str, use: str) -> None:
    put(run, group, f"evil:{entry}")
    with pytest.raises(UnknownEnvironmentError) as caught:
        USES[use]("run", [])
    assert str(caught.value) == (
        f"{group}=evil:{entry}: the run names code from outside of metarl, in the module evil, which lies in"
        f" {run.parent}: if you trust it, say so with trust=evil"
    )
    assert not (run.parent / "executed").exists() and "evil" not in sys.modules
    USES[use]("run", ["trust=evil"])
    assert (run.parent / "executed").exists()


@pytest.mark.parametrize(
    "place", ["antigravity:x", "this:E", "gymnasium:antigravity:X-v0", "torch.hub:load", "pytest:E"]
)
def test_a_module_that_is_installed_needs_it_too(run: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    for name in ("antigravity", "this"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    put(run, "env", place)
    first = place.removeprefix("gymnasium:").partition(":")[0].partition(".")[0]
    with pytest.raises(UnknownEnvironmentError, match=f"say so with trust={first}$"):
        open_run(run)
    assert not {"antigravity", "this"} & set(sys.modules)


def test_a_registered_environment_needs_it_if_making_it_imports(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", gymnasium.registry)
    for version, module in ((0, "gymnasium"), (1, "evil")):
        gymnasium.register(f"OfSomebody-v{version}", entry_point=f"{module}:E")
    try:
        for name in ("OfSomebody", "OfSomebody-v1"):
            put(run, "env", f"gymnasium:{name}")
            with pytest.raises(UnknownEnvironmentError, match="say so with trust=evil$"):
                open_run(run)
        for name in ("OfSomebody-v0", "metarl/Reach-v0"):
            trust.check_named({"env": {"entry": f"gymnasium:{name}"}}, run)
    finally:
        for version in (0, 1):
            del gymnasium.registry[f"OfSomebody-v{version}"]
    assert not (run.parent / "executed").exists()


def test_another_package_with_our_name_is_not_ours(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust.check_named({"env": {"entry": "experiments.panda_reach:PandaReach"}}, run)
    (run.parent / "experiments").mkdir()
    (run.parent / "experiments" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "experiments", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(UnknownEnvironmentError, match="trust=experiments"):
        trust.check_named({"env": {"entry": "experiments.panda_reach:PandaReach"}}, run)


def test_a_run_cannot_say_whom_to_trust(run: Path) -> None:
    put(run, "env", "evil:E")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"trust": ["evil"]}, sort_keys=False))
    with pytest.raises(UnknownEnvironmentError, match="trust=evil"):
        open_run(run)
    assert not (run.parent / "executed").exists()


def test_who_trains_it_is_not_asked_and_others_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = train(compose(["env=evil:E", "agent=mlp", *TINY, "run_dir=mine", "trust=other"]))
    assert "out=mine/videos/task-0.mp4 trust=evil" in capsys.readouterr().out
    assert "trust" not in RunFolder(mine).read_config()
    train(compose([f"resume={mine}", "budget.iterations=2"]))
    assert open_run(mine).iteration == 2
    trust._named.clear()  # another process
    with pytest.raises(UnknownEnvironmentError, match="trust=evil"):
        open_run(mine)
    # Its last evaluation belongs to the training that was trusted.
    train(compose([f"resume={mine}", "budget.iterations=3", "trust=evil"]))


def test_a_dump_needs_it_as_well(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(run, "env", "evil:E")
    config = {name: value for name, value in RunFolder(run).read_config().items() if name not in trust.RECORD}
    dump = RunFolder(run).save_dump(1, {}, {"config": config})
    with pytest.raises(UnknownEnvironmentError, match="trust=evil"):
        runs.reproduce(dump)
    assert not (run.parent / "executed").exists()
    with pytest.raises(KNOWN):
        runs.reproduce_dump(compose([f"dump={dump}", "trust=evil"], "reproduce"))
    assert (run.parent / "executed").exists()


def test_a_run_to_begin_from_needs_it(run: Path) -> None:
    put(run, "algo", "evil:Algorithm")
    begin = ["env=point2d", "algo=maml", *TINY, "algo.warm_start.run=run", "run_dir=new"]
    with pytest.raises(UnknownEnvironmentError, match="trust=evil"):
        train(compose(begin))
    assert not (run.parent / "executed").exists()
    train(compose([*begin, "trust=evil"]))


@pytest.mark.parametrize("name", ["evaluation", "videos", "tensorboard", "checkpoints", "dumps"])
def test_a_link_out_of_the_run_is_not_followed(run: Path, name: str) -> None:
    away = run.parent / "away"
    if (run / name).exists():
        (run / name).rename(away)
    else:
        away.mkdir()
    before = sorted(away.rglob("*"))
    (run / name).symlink_to(away)
    for use in USES.values():
        with pytest.raises(RunFolderError, match=f"run/{name} is a link that leads out of the run"):
            use("run", [])
    with pytest.raises(RunFolderError, match="leads out of the run"):
        RunFolder(run).subfolder(name)
    assert sorted(away.rglob("*")) == before


def test_links_to_a_run_and_within_it_are_followed(run: Path) -> None:
    (run / "evaluation").rename(run / "elsewhere")
    (run / "evaluation").symlink_to("elsewhere")
    Path("link").symlink_to("run")
    assert open_run("link").iteration == 1
    assert RunFolder("link").subfolder("evaluation").is_dir()


def test_all_modules_that_it_needs_are_named_at_once(run: Path) -> None:
    put(run, "env", "evil:E")
    put(run, "algo", "worse.awr:AWR")
    for word in ([], ["trust=evil"], ["trust=worse"], ["trust=[other,worse]"]):
        with pytest.raises(UnknownEnvironmentError) as caught:
            USES["evaluate"]("run", word)
        wanted = "[evil,other,worse]" if "other" in str(word) else "[evil,worse]"
        assert str(caught.value).endswith(f"say so with 'trust={wanted}'")


def test_words_are_what_a_command_needs(run: Path) -> None:
    def settings(**entries: Any) -> Any:
        return compose(["agent=mlp", *(f"{group}={entry}" for group, entry in entries.items())])

    assert trust.words(settings(env="reach")) == ""
    assert trust.words(settings(env="experiments.panda_reach:PandaReach")) == ""
    assert trust.words(settings(env="a.b:C")) == " trust=a"
    assert trust.words(settings(env="a:C", algo="evil:Algorithm")) == " 'trust=[a,evil]'"


def test_the_commands_that_are_printed_say_whom_to_trust(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that training prints, and those on the pages of a run, and of one of several that needs it."""
    (run.parent / "other.py").write_text(EVIL)
    importlib.invalidate_caches()
    made = train(compose(["env=evil:E", "agent=other:Policy", *TINY, "run_dir=made", "agent.hidden=[4]"]))
    said, word = capsys.readouterr().out, "'trust=[evil,other]'"
    assert said.count(f" {word}\n") == 2, "of the page with films, and of the film"
    page = html.unescape((made / "report.html").read_text())
    assert re.search(rf"python -m metarl\.evaluate run=made split=test .* {re.escape(word)}[\n<]", page)
    both = write_report([open_run(run), open_run(made, trust=["evil", "other"])], "both.html")
    assert f"python -m metarl.report 'run=[{run},made]' {word}<" in html.unescape(both.read_text())
