"""Algorithms and policies of a user's own: the walk-throughs of ARCHITECTURE.md, and what goes wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import metarl
from envs.errors import UnknownEnvironmentError
from metarl.assembly import trust
from metarl.assembly.opened import open_run
from metarl.config.composition import compose, help_text, prepare
from metarl.config.parsing import parse, train_settings
from metarl.errors import KNOWN, ConfigError, TrainingError
from metarl.run_folder import RunFolder
from metarl.run_folder.slim import slim_copy
from metarl.runs import reproduce, train
from tests.metarl.own import command, walk_through

Write = Callable[[str], str]
TINY = ["env=reach", "env.horizon=5", "algo.tasks=2", "algo.episodes=2", "device=cpu", "budget.iterations=1"]
TINY += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "report=page"]
OWN = """
import torch
from typing import Literal

from agents.mlp import MLPPolicy
from agents.policy import Policy
from agents.settings import Count, PolicySettings, setting
from metarl.algorithms.in_context import InContext
from metarl.algorithms.learner import Learner
from metarl.algorithms.maml import MAML
from metarl.config.algorithms import AlgorithmSettings


class NoiseSettings(AlgorithmSettings):
    scale: float = setting(0.1, "of the noise")
    depth: int = setting(2, "of nothing")
    kind: Literal[1, 2, 4] = setting(1, "one of some numbers")
    sizes: list[int] = setting([1, 2], "a list")
    weights: dict[str, float] = setting({}, "by name")
    discount: float = setting(0.5, "which once was a name of gamma")


class Noise(Learner):
    Settings = NoiseSettings

    def __init__(self, policy, settings, generator):
        super().__init__(policy, settings, generator)
        self.drawn = torch.zeros(())

    def update(self, rounds):
        noise = torch.randn(self.policy.log_std.shape, generator=self.generator)
        self.policy.log_std.data += self.settings.scale * noise
        self.drawn += 1
        return {"updates": 1.0, "skipped_updates": 0.0}

    def state(self):
        return super().state() | {"drawn": self.drawn}

    def load(self, tensors):
        super().load(tensors)
        self.drawn.copy_(tensors["drawn"])


class Asking(AlgorithmSettings):
    needed: int


class Needs(Noise):
    Settings = Asking


class Derived(MAML):
    pass


class OwnContext(InContext):
    pass


class Silent(Learner):
    def update(self, rounds):
        return {"loss": 0.0}


class Failing(Learner):
    def update(self, rounds):
        return {"updates": 1.0, "skipped_updates": 1.0}


class Lazy(Learner):
    pass


class Wrong(Learner):
    Settings = PolicySettings


class Other:
    Settings = AlgorithmSettings


class Nobody:
    pass


class WideSettings(PolicySettings):
    hidden: Count = setting(8, "one width")

    def remembers(self):
        return False


class Wide(MLPPolicy):
    Settings = WideSettings

    def __init__(self, observation_size, action_size, max_length, hidden, initial_std):
        super().__init__(observation_size, action_size, [hidden], "relu", initial_std, max_length)


class Greedy(Wide):
    def __init__(self, observation_size, action_size, max_length, hidden, initial_std, depth):
        raise AssertionError


class Narrow(Wide):
    def __init__(self, observation_size, action_size, max_length):
        raise AssertionError


class Blind(Wide):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        del self.critic


class Unfinished(Policy):
    pass
"""


@pytest.fixture
def own(written: Write) -> str:
    """The name of a module with algorithms and policies."""
    return written(OWN)


# The walk-throughs


@pytest.mark.parametrize(
    ("heading", "group", "tiny"),
    [("Add an algorithm", "algo", "agent.width=8"), ("Add a policy", "agent", "agent.initial_std=0.4")],
)
def test_the_walk_through_trains_resumes_and_evaluates(tmp_path: Path, heading: str, group: str, tiny: str) -> None:
    code, line = walk_through(heading)
    assert len(code.splitlines()) < 45
    module, *given = line.split()
    (entry,) = (word.partition("=")[2] for word in given if word.startswith(f"{group}=") and ":" in word)
    package, name = entry.partition(":")[0].split(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{name}.py").write_text(code)
    result = command(tmp_path, module, *given, *TINY[1:5], tiny, *TINY[6:], "budget.iterations=2", "run_dir=run")
    assert (result.returncode, result.stderr) == (0, "")
    for words in (["evaluate", "run=run", "tasks=2"], ["train", "resume=run", "budget.iterations=3"]):
        result = command(tmp_path, *words, f"trust={package}")
        assert (result.returncode, result.stderr) == (0, "")
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())[group]
    key, _, value = given[-1].partition("=")
    assert stored["entry"] == entry and stored[key.partition(".")[2]] == float(value)
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 3
    assert json.loads((tmp_path / "run" / "evaluation" / "test.json").read_text())["tasks"] == 2


# Settings of one's own


def test_settings_of_ones_own_are_set_like_ours(own: str) -> None:
    entry = f"{own}:Noise"
    settings = compose([*TINY, f"algo={entry}", "algo.scale=2", "algo.sizes=[3]", "algo.weights.a=0.5", "algo.kind=4"])
    algo = settings.algo
    assert (algo.name, algo.entry, algo.scale, algo.depth, algo.kind) == ("Noise", entry, 2, 2, 4)
    assert (algo.sizes, algo.weights, algo.tasks) == ([3], {"a": 0.5}, 2)
    assert parse(train_settings(settings.plain()), settings.plain()) == settings


def test_a_former_name_of_ours_is_free_for_others(own: str) -> None:
    algo = compose([*TINY, f"algo={own}:Noise", "algo.discount=0.25"]).algo
    assert (algo.discount, algo.gamma) == (0.25, 0.95)
    assert compose(["env=reach", "algo.discount=0.25"]).algo.gamma == 0.25


def test_a_class_without_settings_has_those_of_its_base(own: str) -> None:
    assert compose(["env=reach", f"algo={own}:Derived", "algo.inner.first_order=true"]).algo.inner.first_order
    assert not hasattr(compose(["env=reach", f"algo={own}:Silent"]).algo.inner, "first_order")


def test_help_tells_them_and_does_not_list_the_class(own: str) -> None:
    compose(["env=reach", f"algo={own}:Derived"])
    text = help_text("train", prepare([f"algo={own}:Noise", "algo.depth=3"]), "train", "")
    assert re.search(r"^  algo.scale=0.1 +of the noise$", text, re.MULTILINE) and "algo.depth=3 " in text
    assert re.search("^algo: fomaml, in_context, maml, multitask, reptile$", text, re.MULTILINE)
    assert "  algo.needed=???" in help_text("train", prepare([f"algo={own}:Needs"]), "train", "")


def test_the_configuration_is_shown_and_swept_like_ours(own: str, tmp_path: Path) -> None:
    """In subprocesses: Hydra's own printing, and its sweeper."""
    (tmp_path / f"{own}.py").write_text(OWN)
    shown = command(tmp_path, "train", f"algo={own}:Noise", "algo.scale=3", "--cfg", "job")
    algo = yaml.safe_load(shown.stdout)["algo"]
    assert (algo["name"], algo["scale"], algo["depth"], algo["tasks"]) == ("Noise", 3, 2, 25)
    folders = "run_dir=sweep/${algo.name}-${agent.name}-${algo.episodes}"
    given = [*TINY, f"agent=mlp,{own}:Wide", f"algo=reptile,{own}:Noise", folders]
    swept = command(tmp_path, "train", "-m", *given, "algo.warm_start.iterations=0")
    assert swept.returncode == 2 and "algo.warm_start: unknown key" in swept.stderr
    swept = command(tmp_path, "train", "-m", *given)
    assert (swept.returncode, swept.stderr) == (0, "")
    made = {"Noise-Wide-2", "Noise-mlp-2", "reptile-Wide-2", "reptile-mlp-2"}
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == made


def test_what_a_policy_of_ones_own_remembers(own: str) -> None:
    assert compose(["env=reach", "algo=multitask", f"agent={own}:Wide"]).agent.hidden == 8
    for algo in ("in_context", f"{own}:OwnContext"):
        with pytest.raises(ConfigError, match=f"^algo={algo}: needs a policy that remembers, which agent={own}:Wide"):
            compose(["env=reach", f"algo={algo}", f"agent={own}:Wide"])
    gru = "experiments.gru:GRUPolicy"
    with pytest.raises(ConfigError, match=f"^agent={gru}: algo=multitask is for a policy that does not remember"):
        compose(["env=reach", "algo=multitask", f"agent={gru}"])


# A run


@pytest.fixture
def run(own: str, tmp_path: Path) -> Path:
    """A run of both."""
    return train(
        compose([*TINY, f"algo={own}:Noise", f"agent={own}:Wide", "agent.hidden=4", f"run_dir={tmp_path}/run"])
    )


def test_a_learner_gets_its_own_state_back(run: Path, tmp_path: Path) -> None:
    for path in (run, slim_copy(RunFolder(run), tmp_path / "slim", {"COMMAND": "a command"}, {}).path):
        learner = metarl.load(path, "cpu").run.learner
        assert type(learner).__name__ == "Noise" and float(learner.drawn) == 1
    train(compose([f"resume={run}", "budget.iterations=3"]))
    assert float(open_run(run, "cpu").learner.drawn) == 3


def put(run: Path, key: str, value: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    *path, leaf = key.split(".")
    group = config
    for name in path:
        group = group[name]
    group[leaf] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("key", ["algo.entry", "agent.entry", "algo.name", "algo.warm_start.settings.entry"])
@pytest.mark.parametrize("place", ["trap_of_run:Trap", "run.trap_of_run:Trap"])
def test_a_module_in_the_runs_folder_is_not_imported(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, place: str
) -> None:
    """Not even if the user trusts it, nor deep in the configuration."""
    run = train(compose([*TINY, "algo=reptile", "agent=mlp", "algo.inner.steps=1", f"run_dir={tmp_path}/run"]))
    (run / "trap_of_run.py").write_text("from pathlib import Path\nPath(__file__).with_name('executed').touch()\n")
    monkeypatch.syspath_prepend(str(run))
    put(run, key, place)
    kind = "a policy" if key.startswith("agent") else "an algorithm"
    with pytest.raises(UnknownEnvironmentError, match=f"names {kind} in its own folder"):
        open_run(run, trust=["trap_of_run", "run"])
    assert not (run / "executed").exists() and "trap_of_run" not in sys.modules


@pytest.mark.parametrize(("key", "what"), [("algo.entry", "Noise"), ("agent.entry", "Wide")])
def test_a_module_of_the_run_that_is_not_there(run: Path, key: str, what: str) -> None:
    put(run, key, f"gone_away.deep:{what}")
    with pytest.raises(UnknownEnvironmentError, match=f"^gone_away.deep:{what}: No module named 'gone_away'"):
        open_run(run, trust=["gone_away"])


def test_a_dump_is_checked_as_a_run_is(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="were skipped"):
        train(compose([*TINY, f"algo={own}:Failing", "agent.width=8", f"run_dir={tmp_path}/run"]))
    (dump,) = (tmp_path / "run" / "dumps").iterdir()
    assert "something was not finite" in reproduce(dump)
    monkeypatch.setattr(trust, "_named", set())
    with pytest.raises(UnknownEnvironmentError, match=f"trust={own}"):
        reproduce(dump)
    shutil.copy(tmp_path / f"{own}.py", tmp_path / "run")
    monkeypatch.syspath_prepend(str(tmp_path / "run"))
    with pytest.raises(UnknownEnvironmentError, match="names an algorithm in its own folder"):
        reproduce(dump, trust=[own])


# What goes wrong, in one line each


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["algo=OWN:Noise", "algo.scal=1"], r"algo.scal: unknown key; did you mean 'scale'\? \(valid: .*"),
        (["agent=OWN:Wide", "agent.hiden=1"], r"agent.hiden: unknown key; did you mean 'hidden'\? \(valid: .*"),
        (["agent=OWN:Wide", "agent.hidden=0"], "agent.hidden=0: must be an integer, 1 or more"),
        (["algo=OWN:Noise", "algo.scale=x"], "algo.scale=x: must be a number"),
        (["algo=OWN:Noise", "algo.depth=1.5"], "algo.depth=1.5: must be an integer"),
        (["algo=OWN:Noise", "algo.kind=3"], "algo.kind=3: must be one of 1, 2, 4"),
        (
            ["algo=OWN:Noise", "algo.sizes=[x]"],
            r"algo.sizes=\[x\]: must be a list .*; each entry an integer",
        ),
        (["algo=OWN:Needs"], "algo.needed: is missing"),
        (["algo=OWN:Nobody"], "algo=OWN:Nobody: is not a subclass of metarl.algorithms.learner.Learner"),
        (["agent=OWN:Nobody"], "agent=OWN:Nobody: is not a subclass of agents.policy.Policy"),
        (["algo=OWN:Other"], "algo=OWN:Other: is not a subclass of metarl.algorithms.learner.Learner"),
        (["algo=OWN:Wrong"], "algo=OWN:Wrong: its Settings must be a subclass of metarl.config.algorithms.Algorithm.*"),
        (["agent=OWN:Noise"], "agent=OWN:Noise: its Settings must be a subclass of agents.settings.PolicySettings"),
        (["algo=OWN:Lazy"], "algo=OWN:Lazy: lacks the methods update"),
        (["agent=OWN:Unfinished"], "agent=OWN:Unfinished: lacks the methods forward, head_names, initial_state, step"),
        (["agent=OWN:Greedy"], "agent=OWN:Greedy: missing a required argument: 'depth'"),
        (["agent=OWN:Narrow"], "agent=OWN:Narrow: got an unexpected keyword argument 'initial_std'"),
        (["agent=OWN:Blind"], "agent=OWN:Blind: must set self.critic to an agents.policy.Critic"),
        (["algo=OWN:Silent"], "Silent.update: its metrics lack skipped_updates, updates"),
        (["algo=OWN:Nowhere"], "OWN:Nowhere: the module OWN has no class 'Nowhere'"),
        (["agent=no_such_module:P"], "no_such_module:P: No module named 'no_such_module'; a module is searched .*"),
        (["algo=a-b:C"], "algo=a-b:C: an algorithm of your own is written package.module:Class"),
        (["algo=subprocess:Popen"], "algo=subprocess:Popen: is not a subclass of metarl.algorithms.learner.Learner"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(own: str, given: list[str], line: str, tmp_path: Path) -> None:
    chosen = [word.replace("OWN", own) for word in given]
    with pytest.raises(KNOWN) as caught:
        train(compose([*TINY, *chosen, f"run_dir={tmp_path}/run"]))
    assert re.fullmatch(line.replace("OWN", own), str(caught.value)), caught.value
    assert not (tmp_path / "run").exists() or "metrics" in line  # found out while it trains


def test_a_module_that_fails_when_it_is_imported(written: Write) -> None:
    name = written("x = 1\nx / 0")
    for group in ("algo", "agent"):
        with pytest.raises(KNOWN, match=rf"^{name}:C: cannot import {name}: \S+{name}.py:2: ZeroDivisionError"):
            compose([*TINY, f"{group}={name}:C"])


def test_a_width_of_any_meaning_is_not_taken_for_ours(own: str) -> None:
    """`hidden` is a list in our MLP and a number here; sizes that no memory holds are refused where they are known."""
    assert compose([*TINY, f"agent={own}:Wide", "agent.hidden=1000000"]).agent.parameters() == 0
    with pytest.raises(ConfigError, match=r"agent.hidden=\[1000000000, 1000000000\].*would take at least"):
        compose([*TINY, "agent=mlp", "agent.hidden=[1000000000,1000000000]"])
