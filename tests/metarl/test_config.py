"""Composition of configurations: groups, recipes, values, and what is wrong with them in one line."""

from copy import deepcopy
from dataclasses import fields, is_dataclass
from itertools import product
from typing import Any

import pytest
import torch
import yaml

from agents.mlp import ACTIVATIONS
from agents.policy import ADAPT
from agents.transformer import CONTEXTS
from envs.core.tasks import SPLITS
from envs.registry import names
from metarl.algorithms.learner import Settings
from metarl.assembly.build import ALGORITHMS, POLICIES, build_settings
from metarl.config.command_line import CONF, compose, resolve_device
from metarl.config.overrides import write_out
from metarl.config.settings import ALGORITHM, TABLES, apply_rules, leaves
from metarl.errors import ConfigError, DeviceError
from metarl.training.budget import Budget

ENVS = tuple(names())
ALGOS = ("maml", "fomaml", "reptile", "in_context", "multitask")


def error_of(*overrides: str, command: str = "train") -> str:
    """The one line with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        compose(overrides, command)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def setting_names(kind: type) -> set[str]:
    """Dotted names of a dataclass's fields, of nested ones too."""
    found = set()
    for field in fields(kind):
        nested = field.default_factory if isinstance(field.default_factory, type) else None
        inside = setting_names(nested) if nested is not None and is_dataclass(nested) else None
        found |= {f"{field.name}.{name}" for name in inside} if inside is not None else {field.name}
    return found


@pytest.mark.parametrize(("env", "algo"), list(product(ENVS, ALGOS)))
def test_every_pair_composes_into_settings_that_exist(env: str, algo: str) -> None:
    config = compose([f"env={env}", f"algo={algo}"])
    assert (config["env"]["name"], config["algo"]["name"]) == (env, algo)
    build_settings(config["algo"])
    if "warm_start" in config["algo"]:
        build_settings(config["algo"]["warm_start"]["settings"])
    Budget(**config["budget"])
    assert set(leaves(config, TABLES["train"])) <= set(TABLES["train"])


def test_the_table_allows_what_the_packages_know() -> None:
    assert set(ALGORITHM) - {"name"} == setting_names(Settings)
    assert ALGORITHM["name"].allowed == f"one of {', '.join(ALGORITHMS)}"
    assert ALGORITHM["inner.adapt"].allowed == f"one of {', '.join(ADAPT)}"
    train = TABLES["train"]
    assert train["agent.name"].allowed == f"one of {', '.join(POLICIES)}"
    assert train["agent.context"].allowed == f"one of {', '.join(('auto', *CONTEXTS))}"
    assert train["agent.activation"].allowed == f"one of {', '.join(ACTIVATIONS)}"
    for command, key in (("train", "evaluate.split"), ("evaluate", "split"), ("render", "split")):
        assert set(TABLES[command][key].allowed.removeprefix("one of ").split(", ")) == set(SPLITS)
    assert {key.removeprefix("budget.") for key in train if key.startswith("budget.")} == setting_names(Budget)


def test_the_groups_are_those_that_the_code_knows() -> None:
    choices = {group: {file.stem for file in (CONF / group).glob("*.yaml")} for group in ("env", "algo", "agent")}
    assert choices == {"env": {*names(), "custom"}, "algo": set(ALGORITHMS), "agent": set(POLICIES)}


def test_every_recipe_belongs_to_a_pair() -> None:
    recipes = {file.stem for file in (CONF / "recipe").glob("*.yaml")} - {"none"}
    assert recipes <= {f"{env}-{algo}" for env, algo in product(ENVS, ALGOS)}


@pytest.mark.parametrize(
    ("command", "needed"), [("evaluate", "run=runs/x"), ("render", "run=runs/x"), ("reproduce", "dump=runs/x")]
)
def test_every_setting_of_the_other_commands_has_a_rule(command: str, needed: str) -> None:
    config = compose([needed], command)
    assert set(leaves(config)) == set(TABLES[command])


@pytest.mark.parametrize(
    ("overrides", "agent", "context"),
    [
        (["env=reach"], "transformer", "episode"),
        (["env=reach", "algo=multitask"], "transformer", "none"),
        (["algo=in_context", "algo.trial_episodes=3"], "transformer", "trial"),
        (["algo.warm_start.iterations=5", "algo.warm_start.settings.trial_episodes=2"], "transformer", "trial"),
        (["algo.warm_start.iterations=0", "algo.warm_start.settings.trial_episodes=2"], "transformer", "episode"),
        (["agent.context=none"], "transformer", "none"),
        (["env=point2d"], "mlp", None),
        (["env=point2d", "algo=fomaml"], "mlp", None),
        (["env=point2d", "algo=multitask"], "mlp", None),
        (["env=point2d", "algo=in_context"], "transformer", "episode"),
        (["env=point2d", "agent=transformer"], "transformer", "episode"),
        (["env=reach", "agent=mlp"], "mlp", None),
    ],
)
def test_the_policy_suits_env_and_algo(overrides: list[str], agent: str, context: str | None) -> None:
    config = compose(overrides)["agent"]
    assert (config["name"], config.get("context")) == (agent, context)


def test_a_recipe_beats_the_defaults_and_the_command_line_beats_the_recipe() -> None:
    values = yaml.safe_load((CONF / "recipe" / "point2d-maml.yaml").read_text())
    plain, recipe = compose(["env=point2d", "recipe=none"]), compose(["env=point2d"])
    assert recipe["algo"]["tasks"] == values["algo"]["tasks"] != plain["algo"]["tasks"]
    assert compose(["env=point2d", "algo.tasks=7"])["algo"]["tasks"] == 7
    assert compose(["env=point2d", "algo=reptile", "recipe=point2d-maml"])["algo"]["tasks"] == values["algo"]["tasks"]


def test_fomaml_is_maml_without_second_derivatives() -> None:
    second, first = compose(["algo=maml"])["algo"], compose(["algo=fomaml"])["algo"]
    assert (second["inner"]["first_order"], first["inner"]["first_order"]) == (False, True)
    first["name"], first["inner"]["first_order"] = "maml", False
    assert first == second


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("budget.env_steps=4e6", "budget.env_steps", 4_000_000),
        ("budget.minutes=5", "budget.minutes", 5.0),
        ("algo.discount=1", "algo.discount", 1.0),
        ("algo.inner.clip=2", "algo.inner.clip", 2.0),
        ("run_dir=2024", "run_dir", "2024"),
        ("run_dir='runs/x-${seed}'", "run_dir", "runs/x-0"),
        ("device=cuda:1", "device", "cuda:1"),
        ("env.tasks.payload_mass=[0,2]", "env.tasks.payload_mass", [0, 2]),
        ("++env.tasks.payload_mass=[0,2]", "env.tasks.payload_mass", [0, 2]),
        ("env.tasks={payload_mass:[0,2]}", "env.tasks.payload_mass", [0, 2]),
        ("++algo.tasks=3", "algo.tasks", 3),
    ],
)
def test_values_get_the_type_of_their_setting(override: str, path: str, value: object) -> None:
    found: Any = compose([override])
    for name in path.split("."):
        found = found[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["iterations", "env_steps", "minutes"])
def test_a_limit_on_the_command_line_replaces_the_recipes(name: str) -> None:
    budget = compose([f"budget.{name}=3"])["budget"]
    assert budget == {"iterations": None, "env_steps": None, "minutes": None} | {name: 3}


def test_a_resumed_run_keeps_what_is_not_given() -> None:
    bare = compose(["resume=runs/x"])
    assert (bare["budget"], bare["device"]) == (None, None)
    given = compose(["resume=runs/x", "budget.minutes=2", "device=cpu"])
    assert (given["budget"]["minutes"], given["budget"]["iterations"], given["device"]) == (2.0, None, "cpu")


def test_an_environment_of_the_users_own() -> None:
    config = compose(["env=my_package.my_module:MyEnv", "env.colour=red", "env.horizon=20"])["env"]
    assert config == {
        "name": "MyEnv",
        "entry": "my_package.my_module:MyEnv",
        "tasks": {},
        "colour": "red",
        "horizon": 20,
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["env=a.b:C", "env.size=3", "budget.minutes=1"],
        ["env.tasks.goal=[0,1]", "++algo.tasks=3", "seed=4"],
        ["env='a.b:C'"],
    ],
)
def test_writing_out_twice_changes_nothing(overrides: list[str]) -> None:
    once = write_out(overrides)
    assert write_out(once) == once != overrides


TOP = "(valid: agent, algo, budget, checkpoint, device, env, evaluate, resume, run_dir, seed, threads, torch_threads)"


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["env=reachh"], "env=reachh: unknown environment; did you mean 'reach'? (valid: ant_dir, "),
        (["algo=mamll"], "algo=mamll: unknown algorithm; did you mean 'maml'? (valid: fomaml, in_context, "),
        (["agent=lstm"], "agent=lstm: unknown policy; (valid: mlp, transformer)"),
        (["recipe=reach-mamll"], "recipe=reach-mamll: unknown recipe; did you mean 'reach-maml'? (valid: "),
        (["budgett.iterations=3"], f"budgett.iterations=3: unknown key; did you mean 'budget.iterations'? {TOP}"),
        (["budget.iteration=3"], "budget.iteration=3: unknown key; did you mean 'budget.iterations'? (valid in "),
        (["learning_rate=1"], "learning_rate=1: unknown key; did you mean 'algo.outer.learning_rate'? (valid: agent"),
        (["envv=reach"], "envv=reach: unknown key; did you mean 'env'? (valid: agent"),
        (["+foo=3"], "foo: unknown key; (valid: agent"),
        (["+agent.depth=3"], "agent.depth=3: unknown key; "),
        (["agent=mlp", "++agent.width=3"], "agent.width=3: unknown key; "),
        (["seed.x=3"], "seed.x=3: unknown key; did you mean 'seed'? (valid in seed: nothing)"),
        (["~seed"], "~seed: a setting cannot be removed; where it may be empty, write seed=null"),
        (["env=null"], "env=null: choose the environment by its name; --help lists them"),
        (["env"], "env: not understood; settings are written key=value, as in env=reach"),
        (["env=[reach"], "env=[reach: not understood (no viable alternative at input '[reach'); "),
        (["seed=0,1"], "seed=0,1: several values are a sweep, which needs -m; a list is written seed=[0,1]"),
        (["seed="], "seed='': must be an integer"),
        (["algo.discount=1.5"], "algo.discount=1.5: must be a number above 0 up to 1"),
        (["algo.inner.steps='${nope}'"], "algo.inner.steps: Interpolation key 'nope' not found"),
        (["budget=5"], "budget=5: is a group of settings (env_steps, iterations, minutes), set one of them"),
        (["budget.minutes=1", "budget.iterations=2"], "budget: must have exactly one of "),
        (["budget.iterations=null"], "budget: must have exactly one of iterations, env_steps, minutes (given: none"),
        (["agent=mlp", "agent.hidden=64"], "agent.hidden=64: must be a list [a, b, ...]; each entry an integer, 1"),
        (["env=custom"], "env.entry=null: must be package.module:Class, given as env=package.module:Class"),
        (["env=a.b:C:D"], "env=a.b:C:D: an environment of your own is written package.module:Class"),
        (["agent=mlp", "algo=in_context"], "algo=in_context: needs a policy that remembers, which agent=mlp here does"),
        (["algo=multitask", "agent.context=episode"], "agent.context=episode: algo=multitask is for a policy that"),
        (["resume=runs/x", "seed=3"], "seed=3: a resumed run keeps its own settings; only budget and device may be"),
        (["resume=runs/x", "budget.minutes=1", "budget.iterations=2"], "budget: must have exactly one of "),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(overrides: list[str], text: str) -> None:
    assert error_of(*overrides).startswith(text)


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """The configuration of training without any override."""
    return compose()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seed", -1, "seed=-1: must be an integer from 0 to 4294967295"),
        ("seed", 1.5, "seed=1.5: must be an integer"),
        ("seed", True, "seed=true: must be an integer"),
        ("seed", float("inf"), "seed=inf: must be an integer"),
        ("algo.discount", 0, "algo.discount=0: must be a number above 0 up to 1"),
        ("algo.inner.rate", float("nan"), "algo.inner.rate=nan: must be a number above 0"),
        ("algo.inner.adapt", "heads", "algo.inner.adapt=heads: must be one of all, head, body"),
        ("algo.warm_start.settings.tasks", 0, "algo.warm_start.settings.tasks=0: must be an integer, 1 or more"),
        ("algo.inner", 3, "algo.inner=3: is a group of settings ("),
        ("budget.minutes", -1, "budget.minutes=-1: must be a number above 0, or null"),
        ("device", "gpu", "device=gpu: must be auto, cpu, cuda or cuda:<number>"),
        ("env.goal_visible", 2, "env.goal_visible=2: must be true or false"),
        ("env.tasks", 3, "env.tasks=3: must be a group of ranges"),
        ("agent.hidden", 64, "agent.hidden=64: must be a list [a, b, ...]; each entry an integer, 1 or more"),
        ("agent.hidden", [64, 0], "agent.hidden=[64,0]: must be a list"),
        ("agent.hidden", [], "agent.hidden=[]: must be a list"),
    ],
)  # fmt: skip
def test_values_that_are_not_allowed(defaults: dict[str, Any], key: str, value: object, text: str) -> None:
    config = deepcopy(defaults)
    *path, leaf = key.split(".")
    group = config
    for name in path:
        group = group[name]
    group[leaf] = value
    before = deepcopy(config)
    with pytest.raises(ConfigError) as caught:
        apply_rules(config, TABLES["train"])
    assert str(caught.value).startswith(text)
    assert str(config) == str(before)


@pytest.mark.parametrize(
    ("command", "overrides", "text"),
    [
        ("evaluate", [], "run=null: must be the folder of a trained run, such as runs/reach-maml-0"),
        ("evaluate", ["run=x", "split=tst"], "split=tst: must be one of test, ood, train"),
        ("evaluate", ["run=x", "task=3"], "task=3: unknown key; did you mean 'tasks'? (valid: checkpoint, "),
        ("render", ["run=x", "width=33"], "width=33: must be an even integer from 16 to 4096"),
        ("render", ["run=x", "task=-1"], "task=-1: must be an integer, 0 or more"),
        ("render", ["run=x", "fps=0"], "fps=0: must be a number above 0 up to 240, or null"),
    ],
)
def test_mistakes_in_the_other_commands(command: str, overrides: list[str], text: str) -> None:
    assert error_of(*overrides, command=command).startswith(text)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="device=gpu: must be"):
        resolve_device("gpu")


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="device=cuda: CUDA is not available here; choose device=cpu or device=auto"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="device=cuda:2: there are 2 CUDA devices, counted from 0"):
        resolve_device("cuda:2")
