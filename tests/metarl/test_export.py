"""An exported policy acts as `predict` does, over whole trials and beyond them; what cannot be exported is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import metarl
from agents.mlp import MLPPolicy
from agents.policy import Policy
from experiments.gru import GRUPolicy
from metarl.agent import Agent
from metarl.assembly.kept import Kept
from metarl.assembly.onnx_file import write_onnx
from metarl.config.composition import compose
from metarl.deploy import export_run, presented
from metarl.errors import ConfigError, ExportError, RunFolderError, RunWarning
from metarl.runs import train
from tests.metarl.test_pretrained import SHIPPED

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[2]
TINY = ["env=point2d", "env.horizon=4", "agent.hidden=[4]", "algo=maml", "algo.tasks=2", "threads=1"]
TINY += ["algo.episodes=2", "algo.outer.epochs=1", "budget.iterations=1", "device=cpu", "evaluate.tasks=2"]


def moved(agent: Agent) -> Agent:
    """Adapted: other parameters in the place of all that can adapt."""
    policy, generator = agent.run.policy, torch.Generator().manual_seed(0)
    own = {n: p.detach()[None] for n, p in policy.named_parameters() if n in policy.parameter_names("all")}
    return replace(agent, adapted={n: p + 0.02 * torch.randn(p.shape, generator=generator) for n, p in own.items()})


def with_policy(agent: Agent, policy: Policy) -> Agent:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return Agent(replace(agent.run, policy=policy))


def check(agent: Agent, path: Path, episode: int) -> Any:
    """Both act on the same observations and feedback, for a whole trial and an episode more."""
    from experiments.deploy.run_onnx import Robot

    write_onnx(agent.run, Kept(agent.adapted), path)
    theirs, ours, policy = Robot(str(path)), agent.controller(), agent.run.policy
    generator, feedback = np.random.default_rng(0), 0.0
    scale = policy.normaliser.variance[: policy.observation_size].sqrt().numpy()
    middle = policy.normaliser.mean[: policy.observation_size].numpy()
    trial = agent.run.learner.settings.trial_episodes if policy.context == "trial" else 1
    seen = []
    for t in range((trial + 1) * episode):
        if t % episode == 0:
            theirs.reset()
            ours.reset()
        observation = (middle + scale * generator.normal(size=policy.observation_size)).astype(np.float32)
        expected, action = ours.act(observation, feedback), theirs.act(observation, feedback)
        np.testing.assert_allclose(action, expected, atol=1e-5, rtol=0)
        feedback = float(generator.normal())
        seen.append(action)
    assert np.std(seen, 0).max() > 1e-3 and np.abs(seen).min() < 1, "the actions tell nothing"
    return theirs.about


@pytest.mark.parametrize("name", ["reach_search-in_context", "cheetah_dir-maml"])
def test_it_acts_as_predict_does(name: str, tmp_path: Path) -> None:
    agent = metarl.load(name, "cpu")
    about = check(moved(agent), tmp_path / "policy.onnx", agent.run.horizon)
    assert about["environment"]["name"] == agent.run.settings.env.name and about["run"] == f"pretrained/{name}"
    assert about["environment"]["horizon"]["value"] == agent.run.horizon and "Observation" in str(about)
    environment = about["environment"]
    period = environment["control_period"]["value"]
    assert environment["control_rate"]["value"] == pytest.approx(1 / period)
    assert about["spaces"]["observation"]["shape"] == [agent.run.policy.observation_size]
    first = {"first": 0, "last": 6, "meaning": "joint positions", "unit": "rad"}
    assert (first in environment["observation"]) == (agent.run.settings.env.name == "reach_search")
    assert environment["action"].split()[0] in ("change", "torques")
    assert environment["observation"][-1]["last"] == agent.run.policy.observation_size - 1


@pytest.mark.nightly
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_policy_acts_as_predict_does(name: str, tmp_path: Path) -> None:
    agent = metarl.load(name, "cpu")
    for each in (agent, moved(agent)):
        check(each, tmp_path / "policy.onnx", agent.run.horizon)


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_other_policies(kind: str, tmp_path: Path) -> None:
    agent = metarl.load("reach", "cpu")
    sizes = (agent.run.policy.observation_size, agent.run.policy.action_size)
    torch.manual_seed(0)
    policy = MLPPolicy(*sizes) if kind == "mlp" else GRUPolicy(*sizes, 50, 8, "episode", 0.5)
    check(with_policy(agent, policy), tmp_path / "policy.onnx", 5)


class Deciding(MLPPolicy):
    """Its course depends on numbers."""

    def step(self, token: Any, state: Any, position: Any) -> Any:
        return self(token * 2 if float(token.sum()) > 0 else token), state


def test_a_policy_that_cannot_be_traced_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    agent = metarl.load("reach", "cpu")
    policy = Deciding(agent.run.policy.observation_size, agent.run.policy.action_size)
    with pytest.raises(ExportError, match="the step of Deciding cannot be traced .*; it must be tensor op") as caught:
        write_onnx(replace(agent.run, policy=policy), Kept(), tmp_path / "policy.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", ""), "the error says it all"


def test_what_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = metarl.load("reach", "cpu").run
    with pytest.raises(ConfigError, match="opset=999: must be from 18 to"):
        write_onnx(run, Kept(), tmp_path / "policy.onnx", 999)
    with pytest.raises(ConfigError, match="out=policy.bin: must end in .onnx"):
        export_run(compose(["run=pretrained/reach", "out=policy.bin"], "export"))
    monkeypatch.setattr("metarl.assembly.onnx_file._traced", lambda *_: __import__("onnx").ModelProto())
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot make the folder"):
        write_onnx(run, Kept(), tmp_path / "file" / "policy.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript is missing: in your clone.* pip install -e '\.\[export\]'"):
        write_onnx(run, Kept(), tmp_path / "policy.onnx")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(compose([*TINY, f"run_dir={tmp_path_factory.mktemp('runs') / 'point'}"]))


def exported(run: object, file: Path) -> tuple[dict[str, Any], str]:
    """The front matter and the text of the card beside an exported policy."""
    export_run(compose([f"run={run}", f"out={file}"], "export"))
    _, front, text = file.with_suffix(".md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_card_lies_beside_the_file(trained: Path, tmp_path: Path) -> None:
    run = metarl.load(trained, "cpu").run
    front, text = exported(trained, tmp_path / "my policy.onnx")
    (result,) = front["model-index"][0]["results"]
    before, *after = run.folder.read_evaluation("test")["curve"]
    assert after and result["metrics"][0]["value"] == pytest.approx(before["success"]["mean"], abs=1e-4)
    assert result["metrics"][1]["value"] == pytest.approx(before["return"]["mean"], abs=1e-4)
    assert text.count("\n| 0 | 0 |") == 1 and "\n| 1 |" not in text and "takes no gradient steps" in text
    words = (
        """python experiments/deploy/run_onnx.py 'my policy.onnx' envs:metarl/Point2d-v0 --options '{"horizon": 4}'\n"""
    )
    assert words in text
    assert "license" not in front and f"run_dir={trained}" in text
    front, text = exported("pretrained/reach", tmp_path / "reach.onnx")
    assert front["license"] == "apache-2.0" and "run_onnx.py reach.onnx envs:metarl/Reach-v0\n" in text


def test_the_card_of_an_adapted_policy_says_on_what(trained: Path, tmp_path: Path) -> None:
    agent = metarl.load(trained, "cpu")
    adapted = agent.adapt(presented(agent.run.settings.env, "test", 0), 2, 1)
    front, text = exported(adapted.save(tmp_path / "arm"), tmp_path / "arm.onnx")
    assert f"It was adapted on {adapted.history[0]['env']} (2 episodes, 1 steps), from `{trained}`." in text
    assert front["model-index"][0]["results"] == [] and "It was not evaluated." in text
    assert f"run_dir={trained}\n" in text, "what is trained again is what it was before"


def test_a_memory_that_was_kept_is_said_to_be_left_out(trained: Path, tmp_path: Path) -> None:
    robot = metarl.load(trained, "cpu").controller()
    robot.act(np.zeros(2), 0.0)
    kept = robot.agent.save(tmp_path / "arm", robot.memory)
    with pytest.warns(RunWarning, match=r"remembers of its task is not in .*arm\.onnx: there its memory begins new"):
        assert "What it remembers is not in `arm.onnx`" in exported(kept, tmp_path / "arm.onnx")[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        assert "remembers" not in exported(trained, tmp_path / "point.onnx")[1]


def test_a_card_tells_nothing_of_another_checkpoint_and_replaces_no_notes(trained: Path, tmp_path: Path) -> None:
    run, path = Path(shutil.copytree(trained, tmp_path / "run")), tmp_path / "policy.onnx"
    evaluation = run / "evaluation" / "test.json"
    content = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps(content | {"iteration": 7}))
    assert "It was not evaluated." in exported(run, path)[1]
    evaluation.write_text("{}")
    exported(run, path)
    path.with_suffix(".md").write_text("what I think of it")
    with pytest.raises(RunFolderError, match=r"policy\.md is there already, and is not the card"):
        export_run(compose([f"run={run}", f"out={path}"], "export"))
    assert path.with_suffix(".md").read_text() == "what I think of it"


def test_the_runner_needs_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    path = export_run(compose(["run=pretrained/reach", f"out={tmp_path / 'policy.onnx'}"], "export"))
    script = str(ROOT / "experiments" / "deploy" / "run_onnx.py")
    command = [sys.executable, script, str(path), "envs:metarl/Reach-v0", "--episodes", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("episode 1: return "), done.stderr
    wrong = subprocess.run([*command, "--options", '{"goal_visible": true}'], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.endswith("those of envs:metarl/Reach-v0 [27]\n"), wrong.stderr
    code = f"import sys, runpy; runpy.run_path({script!r}); print(sorted({{'torch', 'metarl'}} & set(sys.modules)))"
    alone = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert alone.stdout.strip() == "[]", alone.stderr
