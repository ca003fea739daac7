"""Environments of a user's own, from the command line on: the walk-through of ARCHITECTURE.md, and what goes wrong."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metarl
from envs import registry
from envs.adapters.gymnasium import TaskEnv
from envs.core.models import load_spec, physics_model
from envs.core.tasks import Range
from envs.errors import ContractError, EnvsError, ModelError, TaskError, UnknownEnvironmentError
from metarl.assembly.build import build_policy
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.deploy import adapt_run
from metarl.errors import KNOWN, ConfigError, MetaRLError
from metarl.evaluation.films import render_run
from metarl.rollouts.rollout import collect
from metarl.runs import evaluate_run, train
from tests.metarl.own import POINT, cart, command, walk_through

TINY = ["algo.tasks=3", "algo.episodes=2", "agent.width=8", "evaluate.tasks=3", "evaluate.episodes_per_step=2"]
TINY += ["report=page"]
Write = Callable[[str], str]

# The walk-through


def test_the_walk_through_trains_and_evaluates(tmp_path: Path) -> None:
    code, line = walk_through()
    assert len(code.splitlines()) < 75
    module, entry, *settings = line.split()
    package, name = entry.removeprefix("env=").partition(":")[0].split(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{name}.py").write_text(code)
    options = ["env.horizon=6", "env.tasks.mass=[1,2]", "algo.tasks=6", "agent.width=8"]
    result = command(tmp_path, module, entry, *settings, *options, *TINY[3:], "budget.iterations=2", "run_dir=run")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert rows[-1].split(",")[rows[0].split(",").index("env_steps")] == str(2 * 6 * 6)
    result = command(tmp_path, "evaluate", "run=run", "split=ood", "tasks=3", f"trust={package}")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "run" / "evaluation" / "ood.json").read_text())
    assert (report["env"], report["tasks"]) == ("cart", 3)
    wrong = command(tmp_path, module, entry, "env.tasks.mass=[2,1]")
    place = entry.removeprefix("env=")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert re.fullmatch(rf"error: {place} \(cart.py:\d+\): task parameter 'mass': .* upside down: .*\n", wrong.stderr)


def test_the_walk_through_is_a_task_that_can_be_solved(written: Write) -> None:
    env = registry.make(f"{written(cart())}:Cart", 100, horizon=40)
    env.set_tasks(env.distribution.published("test"))
    observation, target, mass = env.reset(), env.assigned["target"], env.assigned["mass"]
    for _ in range(env.horizon):
        position, velocity = observation.split(1, -1)
        step = env.step(4.0 * mass * (target - position) - (mass - 0.2) * velocity)
        observation = step.observation
    assert step.success.float().mean() > 0.95 and not step.failed.any()


def test_an_environment_may_compute_in_its_reward_terms_what_its_success_reads(written: Write) -> None:
    changes = ("    def sense(", "    def look("), ('return {"distance"', 'self.look()\n        return {"distance"')
    both = [registry.make(f"{written(cart(*each))}:Cart", 4, threads=1) for each in ((), changes)]
    for env in both:
        env.set_tasks(env.distribution.published("train", 4))
        env.reset()
    for action in torch.linspace(-1, 1, 40 * 4).reshape(40, 4, 1):
        one, two = (env.step(action) for env in both)
        assert torch.equal(one.reward, two.reward) and torch.equal(one.success, two.success)


def test_a_model_without_a_viewer_is_drawn(written: Write) -> None:
    name = written(cart(('name="viewer" ', "")))
    env = registry.make(f"{name}:Cart", 1)
    env.set_tasks(env.distribution.published("test", 1))
    env.reset()
    assert env.drawer(0, 64, 48)(env.render_state(0)).max() > 100


# A Gymnasium environment from the command line on


def test_a_gymnasium_environment_is_trained_resumed_filmed_and_loaded(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{written(POINT)}:Point"
    monkeypatch.chdir(tmp_path)
    given = [f"env={place}", "env.horizon=9", "env.speed=0.3", "env.train_tasks=50", *TINY]
    train(compose([*given, "budget.iterations=2", "run_dir=run"]))
    train(compose([*given, "budget.iterations=1", "run_dir=half"]))
    train(compose(["resume=half", "budget.iterations=2"]))
    whole, half = open_run("run", "cpu"), open_run("half", "cpu")
    assert whole.settings.env.name == "Point" and whole.iteration == half.iteration == 2
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, half.policy.state_dict()[name]), name
    evaluate_run(compose(["run=run", "tasks=2", "split=train"], "evaluate"))
    assert json.loads(Path("run/evaluation/train.json").read_text())["env"] == "Point"
    render_run(compose(["run=run", "out=film.gif", "width=64", "height=48"], "render"))
    assert Path("film.gif").stat().st_size > 0
    capsys.readouterr()
    user = sys.modules[place.partition(":")[0]].Point()
    user.set_task({"goal": np.zeros(2)})
    agent = metarl.load("run", "cpu")
    with pytest.raises(MetaRLError, match=r"actions are not from -1 to 1.*RescaleAction\(env, -1.0, 1.0\)"):
        agent.adapt(user, episodes=1)
    space, user.action_space = user.action_space, gymnasium.spaces.MultiBinary(2)
    with pytest.raises(MetaRLError, match="actions are a MultiBinary of int8, the policy's are real numbers"):
        agent.adapt(user, episodes=1)
    user.action_space = space
    adapted = agent.adapt(gymnasium.wrappers.RescaleAction(user, np.float32(-1), np.float32(1)), episodes=2)
    assert adapted.adapted is not None
    adapt_run(compose(["run=run", "out=kept", "episodes=2"], "adapt"))
    assert metarl.load("kept", "cpu").history[0]["env"] == "Point"
    with pytest.raises(UnknownEnvironmentError, match=f"^{place}: got an unexpected keyword argument 'colour'"):
        adapt_run(compose(["run=run", "out=other", f"env={place}", "env.colour=red"], "adapt"))


@pytest.mark.parametrize("option", ["seed=3", "threads=2", "num_simulations=3"])
def test_what_the_run_says_is_no_option_of_an_environment(written: Write, tmp_path: Path, option: str) -> None:
    for place in (f"{written(POINT)}:Point", f"{written(cart())}:Cart"):
        with pytest.raises(ConfigError, match=f"^env.{option}: .*give .*= in its place"):
            train(compose([f"env={place}", "env.horizon=9", f"env.{option}", *TINY, f"run_dir={tmp_path / 'run'}"]))


def test_tasks_that_are_none_are_one_line(written: Write) -> None:
    place = f"{written(POINT.replace('return [', 'self.drawn = ['))}:Point"
    assert line_of(place, ContractError, horizon=5) == (
        f"{place}: sample_tasks(100) returned a NoneType, not a list of tasks"
    )


def test_an_action_that_is_not_finite_does_not_reach_the_environment(written: Write) -> None:
    moved = "self.position = self.position + "
    place = f"{written(POINT.replace(moved, f'assert np.isfinite(action).all(); {moved}'))}:Point"
    env = registry.make(place, 4, horizon=5)
    env.set_tasks(env.distribution.published("train", 2))
    env.reset()
    step = env.step(torch.tensor([[0.1, 0.1], [torch.nan, 0.0], [0.0, torch.inf], [0.0, 0.0]]))
    assert step.failed.tolist() == [False, True, True, False]
    assert env.last_failure is not None and "the action is not finite" in env.last_failure


def test_an_agent_adapts_to_a_class_that_was_trained_at_its_own_horizon(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{written(cart())}:Cart"
    monkeypatch.chdir(tmp_path)
    train(compose([f"env={place}", "algo=in_context", *TINY, "budget.iterations=1", "run_dir=run"]))
    assert "horizon" not in Path("run/config.yaml").read_text()
    agent = metarl.load("run", "cpu")
    env = TaskEnv(place)
    adapted = agent.adapt(env, episodes=2)
    assert adapted.adapted is not None and agent.run.horizon == env.environment.horizon == 40
    state, reward = None, 0.0
    observation, _ = env.reset()
    for _ in range(40):
        action, state = adapted.predict(observation, state, reward=reward)
        observation, reward, _, over, _ = env.step(action)
    assert over


def test_episodes_that_end_early_are_cut_in_the_rollout(written: Write) -> None:
    env = registry.make(f"{written(POINT)}:faster", 6, horizon=30)
    assert (env.name, env.horizon) == ("faster", 30)
    env.set_tasks(env.distribution.published("test", 3))
    config = compose(["env=point2d", "agent.hidden=[4]"])
    policy = build_policy(config.agent, env, 1, torch.device("cpu"))
    episodes = collect(env, policy, generator=torch.Generator().manual_seed(0))
    length = episodes.valid.sum(-1)
    ended = episodes.success_any_step[..., 0]
    assert ended.any() and torch.equal(length < 30, ended) | (length == 30).any()
    assert torch.equal(episodes.success_at_end, episodes.success_any_step)
    assert not episodes.reward[episodes.valid == 0].any()


def test_a_registered_gymnasium_environment_is_named_on_the_command_line() -> None:
    env = compose(["env=gymnasium:envs:metarl/Point2d-v0", "env.horizon=5"]).env
    assert env.entry == "gymnasium:envs:metarl/Point2d-v0" and env.name == "Point2d-v0"


def test_one_that_a_module_of_ones_own_registers(written: Write) -> None:
    name = written(f"{POINT}\ngymnasium.register('Lab-v0', entry_point=Point)\n")
    assert registry.make(f"gymnasium:{name}:Lab-v0", 2, horizon=5).horizon == 5
    line = line_of("gymnasium:Elsewhere-v0", UnknownEnvironmentError)
    assert line.endswith("; if a module registers it: gymnasium:my_module:Elsewhere-v0")


# What goes wrong, in one line each


def line_of(place: str, kind: type[EnvsError], steps: int = 0, **options: Any) -> str:
    """The one line with which an environment is refused when it is made, or used."""
    with pytest.raises(KNOWN) as caught:
        env = registry.make(place, 4, threads=1, **options)
        env.set_tasks(env.distribution.published("train", 2))
        env.reset()
        for _ in range(steps):
            env.step(torch.zeros(4, env.action_size))
    text = str(caught.value)
    assert caught.type is kind and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            "import nothing_at_all",
            r"cannot import NAME: \S+NAME.py:1: ModuleNotFoundError: No module .*'nothing_at_all'",
        ),
        ("x = 1\nx / 0", r"cannot import NAME: \S+NAME.py:2: ZeroDivisionError: division by zero"),
        ("x = (", r"cannot import NAME: \S+NAME.py:1: SyntaxError: '\(' was never closed"),
        (
            "from envs.core.tasks import Range\nR = Range(2, 1)",
            r"cannot import NAME: \S+NAME.py:2: TaskError: range is upside down",
        ),
        ("", "the module NAME has no class 'Cart'"),
        ("Cart = 3", "the module NAME has no class 'Cart'"),
    ],
)
def test_a_module_that_cannot_be_used(written: Write, source: str, line: str) -> None:
    name = written(source)
    found = line_of(f"{name}:Cart", UnknownEnvironmentError)
    assert re.match(f"{name}:Cart: {line.replace('NAME', name)}", found)


def test_a_module_that_is_not_there() -> None:
    line = "nowhere.at_all:Cart: No module named 'nowhere'; a module is searched from the working folder"
    assert line_of("nowhere.at_all:Cart", UnknownEnvironmentError) == line


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("class Cart: pass", "is a subclass of neither envs.environment.MujocoEnvironment"),
        ("def Cart(**options): return 3", "returned a int, which is neither"),
        (
            "def Cart(num_simulations, **options): return 3",
            "returned a int, which is not an envs.environment.",
        ),
        (cart(("    def control(", "    def push(")), "lacks the methods control"),
        (cart(("self.horizon, ", "self.length, ")), "must set horizon to an integer, and it is None"),
        (cart(("= horizon, 2, 1", "= 0, 2, 1")), "must set horizon to a positive integer, and it is 0"),
        (cart(('    name = "cart"\n', "")), "must set name to a text, and it is None"),
        (POINT.replace("def set_task", "def put_task").replace("Point", "Cart"), "lacks set_task: a task environment"),
    ],
)
def test_a_class_that_is_no_environment(written: Write, source: str, line: str) -> None:
    name = written(source)
    assert line_of(f"{name}:Cart", ContractError).startswith(f"{name}:Cart: {line}")


@pytest.mark.parametrize(
    ("change", "kind", "line"),
    [
        (('<mujoco model="cart">', '<mujoco model="cart"'), ModelError, r"\S+NAME.py: XML .*"),
        (
            ('joint="slide" gear', 'joint="slid" gear'),
            ModelError,
            r"\S+NAME.py: model 'cart' does not compile: .*slid.*",
        ),
        (
            ("Range(0.5, 3.0,", "Range(3.0, 0.5,"),
            TaskError,
            r"range is upside down: low \(3.0,\) is above high \(0.5,\)",
        ),
        (('Range(0.5, 3.0, unit="kg")', "Categories(())"), TaskError, "a category list must not be empty"),
    ],
)
def test_a_mistake_in_the_constructor_names_the_line(
    written: Write, change: tuple[str, str], kind: type[EnvsError], line: str
) -> None:
    name = written(cart(change, ("import Range,", "import Categories, Range,")))
    found = line_of(f"{name}:Cart", kind)
    assert re.fullmatch(rf"{name}:Cart \({name}.py:\d+\): {line.replace('NAME', name)}", found), found


def test_a_file_that_does_not_compile_is_named(tmp_path: Path) -> None:
    file = tmp_path / "heavy.xml"
    file.write_text("<mujoco model='x'><worldbody><body><geom size='1' mass='-1'/></body></worldbody></mujoco>")
    with pytest.raises(ModelError, match=rf"^{file}: model 'x' does not compile: .*negative"):
        physics_model(load_spec(file))


@pytest.mark.parametrize(
    ("options", "kind", "line"),
    [
        ({"tasks_override": {"mas": [1, 2]}}, TaskError, r".*: unknown task parameter 'mas' \(valid: mass, target\)"),
        ({"tasks_override": {"mass": [2, 1]}}, TaskError, ".*: task parameter 'mass': range is upside down: .*"),
        ({"colour": 3}, EnvsError, "environment 'PLACE': got an unexpected keyword argument 'colour'"),
    ],
)
def test_an_option_that_is_none(written: Write, options: dict[str, Any], kind: type[EnvsError], line: str) -> None:
    place = f"{written(cart())}:Cart"
    assert re.fullmatch(line.replace("PLACE", place), line_of(place, kind, **options))


def test_rewards_are_single_precision_whatever_their_terms_are(written: Write) -> None:
    changes = (
        ('"distance": -self.distance', '"distance": -self.distance.double()'),
        ('return {"distance"', 'return {"near": self.success(), "distance"'),
    )
    env = registry.make(f"{written(cart(*changes))}:Cart", 2, threads=1)
    env.set_tasks(env.distribution.sample(2))
    env.reset()
    step = env.step(torch.zeros(2, 1))
    assert {step.reward.dtype, step.feedback.dtype, *(term.dtype for term in step.terms.values())} == {torch.float32}


def test_a_mistake_inside_a_class_is_not_an_option(written: Write) -> None:
    place = f"{written(cart(('TaskDistribution(ranges)', 'TaskDistribution(ranges, sead=3)')))}:Cart"
    found = line_of(place, ContractError, horizon=9)
    assert re.fullmatch(rf"{place} \(\w+.py:\d+\): TypeError: .*unexpected keyword argument 'sead'", found)


def test_ranges_that_a_class_does_not_take_up(written: Write) -> None:
    place = f"{written(cart(('.override(tasks_override or {})', '')))}:Cart"
    found = line_of(place, TaskError, tasks_override={"mass": [1, 2]})
    assert found.startswith(f"{place}: ignores the task ranges mass: hand the super().__init__")
    env = registry.make(f"{written(cart())}:Cart", 1, tasks_override={"mass": [1, 2]})
    assert env.distribution.parameters["mass"] == Range(1, 2, unit="kg")


@pytest.mark.parametrize(
    ("change", "kind", "steps", "line"),
    [
        (
            ("torch.cat([self.qpos, self.qvel], -1).float()", "self.qpos.float()"),
            ContractError,
            0,
            "Cart: observe() is (4, 1) float32, expected (4, 2) float32",
        ),
        (
            ("torch.cat([self.qpos, self.qvel], -1).float()", "torch.cat([self.qpos, self.qvel], -1)"),
            ContractError,
            0,
            "Cart: observe() is (4, 2) float64, expected (4, 2) float32",
        ),
        (
            ("torch.cat([self.qpos, self.qvel], -1).float()", "[0, 0]"),
            ContractError,
            0,
            "Cart: observe() is a list, expected a tensor (4, 2) float32",
        ),
        (
            ("-0.01 * action.square().sum(-1)", "-0.01 * action.square()"),
            ContractError,
            1,
            "Cart: reward term 'effort' is (4, 1) float32, expected (4,)",
        ),
        (
            ("return self.distance < 0.05", "return (self.distance < 0.05).float()"),
            ContractError,
            1,
            "Cart: success() is (4,) float32, expected (4,) bool",
        ),
        (
            ('"distance": -self.distance', '"distance": (-self.distance - 9).log()'),
            ContractError,
            1,
            "Cart: reward term 'distance' is not finite in all 4 simulations at the first step",
        ),
    ],
)
def test_a_mistake_in_a_method(
    written: Write, change: tuple[str, str], kind: type[EnvsError], steps: int, line: str
) -> None:
    assert line_of(f"{written(cart(change))}:Cart", kind, steps) == line


def test_a_term_that_is_not_finite_later_is_counted_and_named(written: Write) -> None:
    late = ("-self.distance, ", "torch.where(self.distance > 50 * (self.elapsed < 2), torch.nan, -self.distance), ")
    env = registry.make(f"{written(cart(late))}:Cart", 2, threads=1)
    env.set_tasks(env.distribution.published("train", 1))
    env.reset()
    assert not env.step(torch.zeros(2, 1)).failed.any()
    step = env.step(torch.zeros(2, 1))
    assert step.failed.all() and step.reward.tolist() == [0.0, 0.0]
    assert env.last_failure == f"cart: reward term 'distance' is not finite in simulation 0, {env.task_of(0)}"


def test_an_exception_in_its_own_code_is_one_line(written: Write) -> None:
    """It names the file and the line, and keeps the exception itself for who asks."""
    changes = ("return self.distance < 0.05", "return self.distance < json.loads('[')")
    name = written(cart(changes, ("import torch\n", "import json\n\nimport torch\n")))
    found = line_of(f"{name}:Cart", ContractError, steps=1)
    assert re.fullmatch(rf"{name}:Cart \({name}.py:\d+\): JSONDecodeError: Expecting value: .*", found), found
    name = written(POINT.replace("self.goal = task", "self.goal = self.there = self.nowhere"))
    found = line_of(f"{name}:Point", ContractError, horizon=5)
    assert re.fullmatch(rf"{name}:Point \({name}.py:\d+\): AttributeError: .*nowhere.*", found), found
    name = written(cart(("self.horizon, ", "1 / 0; self.horizon, ")))
    assert re.fullmatch(
        rf"{name}:Cart \({name}.py:\d+\): ZeroDivisionError: .*", line_of(f"{name}:Cart", ContractError)
    )
