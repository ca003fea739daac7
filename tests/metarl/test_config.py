"""Composition of configurations: groups, recipes, values, and what is wrong with them in one line."""

import math
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from agents import settings
from agents.mlp import ACTIVATIONS
from agents.policy import ADAPT, LOG_STD_RANGE
from agents.transformer import CONTEXTS
from envs.core.tasks import SPLITS
from envs.registry import all_names, names
from metarl.assembly import build
from metarl.assembly.build import LEARNERS
from metarl.assembly.trust import stored_settings
from metarl.config.algorithms import ALGORITHMS, InnerSteps
from metarl.config.composition import compose
from metarl.config.hydra_nodes import ENVIRONMENTS, RECIPES, family_options
from metarl.config.overrides import write_out
from metarl.config.parsing import COMMANDS, modernised, parse, train_settings
from metarl.config.settings import EvaluationSettings
from metarl.errors import ConfigError, RunFolderError
from metarl.run_folder import RunFolder

ENVS = tuple(names())
ALGOS = ("maml", "fomaml", "reptile", "in_context", "multitask")


def error_of(*overrides: str, command: str = "train") -> str:
    """The one line with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        compose(overrides, command)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("env", "algo"), list(product(ENVS, ALGOS)))
def test_every_pair_composes_into_settings(env: str, algo: str) -> None:
    composed = compose([f"env={env}", f"algo={algo}"])
    assert (composed.env.name, composed.algo.name) == (env, algo)
    assert type(composed.algo) is ALGORITHMS[algo]
    assert [phase.settings.name for phase in composed.phases()][-1] == algo


def test_the_definitions_allow_what_the_packages_know() -> None:
    assert ALGORITHMS.keys() == LEARNERS.keys() and set(ALGOS) == set(ALGORITHMS)
    assert settings.POLICIES.keys() == build.POLICIES.keys()

    def words(kind: Any, name: str) -> set[str]:
        return set(get_args(kind.model_fields[name].annotation))

    assert words(InnerSteps, "adapt") == set(ADAPT)
    assert words(settings.TransformerSettings, "context") == {"auto", *CONTEXTS}
    assert words(settings.MLPSettings, "activation") == set(ACTIVATIONS)
    for kind in (EvaluationSettings, COMMANDS["evaluate"], COMMANDS["render"]):
        assert words(kind, "split") == set(SPLITS)


@pytest.mark.parametrize("name", ENVS)
def test_the_families_have_the_options_and_defaults_that_the_settings_say(name: str) -> None:
    from envs.registry import make

    options = family_options(name)
    told, silent = make(name, 1, **options), make(name, 1)
    assert told.horizon == silent.horizon == options.pop("horizon")
    assert told.observation_size == silent.observation_size  # an oracle's is longer
    assert [getattr(told, key, False) for key in options] == list(options.values())
    assert [getattr(silent, key, False) for key in options] == list(options.values())


def test_the_groups_are_those_that_the_code_knows() -> None:
    assert set(ENVIRONMENTS) == set(all_names())


def test_every_recipe_belongs_to_a_pair() -> None:
    assert set(RECIPES) <= {f"{env}-{algo}" for env, algo in product(all_names(), ALGOS)}


@pytest.mark.parametrize("algo", ["fomaml", "reptile"])
def test_a_pair_without_a_recipe_takes_that_of_maml(algo: str) -> None:
    assert compose(["env=push", f"algo={algo}"]).budget == compose(["env=push", "algo=maml"]).budget
    assert compose(["env=point2d", "algo=reptile"]).budget.iterations == 400  # which it is not to take
    assert compose(["env=reach", "algo=reptile"]).budget.iterations == 300
    assert compose(["env=reach", "algo=reptile"]).algo.warm_start.iterations == 250


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("discount", "gamma", 0.5),
        ("trace", "gae_lambda", 0.5),
        ("inner.clip", "inner.max_grad_norm", 2.0),
        ("outer.clip", "outer.clip_range", 0.1),
        ("outer.value", "outer.value_coef", 0.1),
        ("outer.entropy", "outer.entropy_coef", 0.1),
        ("outer.epochs", "outer.n_epochs", 9),
        ("outer.gradient_clip", "outer.max_grad_norm", 0.1),
        ("warm_start.settings.discount", "warm_start.settings.gamma", 0.5),
    ],
)
def test_a_setting_is_known_by_its_former_name(old: str, new: str, value: float) -> None:
    assert compose([f"algo.{old}={value}"]) == compose([f"algo.{new}={value}"]) != compose()
    plain = compose([f"algo.{new}={value}"]).plain()
    kind = train_settings(plain)
    *path, leaf = old.split(".")
    group = plain["algo"]
    for name in path:
        group = group[name]
    group[leaf] = group.pop(new.split(".")[-1])
    assert parse(kind, modernised(kind, plain)) == compose([f"algo.{new}={value}"])


@pytest.mark.parametrize(
    ("overrides", "agent", "context"),
    [
        (["env=reach"], "transformer", "episode"),
        (["env=reach", "algo=multitask"], "transformer", "none"),
        (["algo=in_context", "algo.trial_episodes=3"], "transformer", "trial"),
        (["algo.warm_start.iterations=5", "algo.warm_start.settings.trial_episodes=2"], "transformer", "trial"),
        (["algo.warm_start.iterations=0", "algo.warm_start.settings.trial_episodes=2"], "transformer", "none"),
        (["agent.context=none"], "transformer", "none"),
        (["env=point2d"], "mlp", None),
        (["env=point2d", "algo=fomaml"], "mlp", None),
        (["env=point2d", "algo=multitask"], "mlp", None),
        (["env=point2d", "algo=in_context"], "transformer", "episode"),
        (["env=point2d", "agent=transformer"], "transformer", "none"),
        (["env=cheetah_dir"], "transformer", "none"),
        (["env=cheetah_dir", "algo=maml", "algo.warm_start.iterations=3"], "transformer", "episode"),
        (["env=reach", "agent=mlp"], "mlp", None),
    ],
)
def test_the_policy_suits_env_and_algo(overrides: list[str], agent: str, context: str | None) -> None:
    found = compose(overrides).agent
    assert (found.name, getattr(found, "context", None)) == (agent, context)


@pytest.mark.parametrize(
    ("group", "key"),
    [
        ("algo.outer={clip:0.1}", "algo.outer.clip_range=0.1"),
        ("+algo.outer={clip:0.1,value:0.2}", "algo.outer.clip_range=0.1 algo.outer.value_coef=0.2"),
        ("algo={discount:0.9,inner:{clip:2}}", "algo.gamma=0.9 algo.inner.max_grad_norm=2"),
    ],
)
def test_former_names_are_known_inside_of_a_group(group: str, key: str) -> None:
    assert compose([group]) == compose(key.split()) != compose()


def test_what_a_stored_configuration_lacks_means_its_default_unless_it_must_be_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    config = compose(["env=point2d"]).plain()
    del config["algo"]["outer"]["entropy_coef"], config["agent"]["initial_std"]  # as if they were added later
    folder.write_config(config)
    assert stored_settings(folder) == compose(["env=point2d"])
    folder.write_config({key: value for key, value in config.items() if key != "seed"})
    with pytest.raises(RunFolderError, match="seed: is missing"):
        stored_settings(folder)


def test_an_option_of_the_users_own_environment_may_be_null() -> None:
    settings = compose(["env=a.b:C", "env.limit=null"]).env
    assert settings.options() == {"tasks": {}, "limit": None}


def test_a_recipe_beats_the_defaults_and_the_command_line_beats_the_recipe() -> None:
    values = RECIPES["point2d-maml"]
    plain, recipe = compose(["env=point2d", "recipe=none"]), compose(["env=point2d"])
    assert recipe.algo.tasks == values["algo"]["tasks"] != plain.algo.tasks
    assert compose(["env=point2d", "algo.tasks=7"]).algo.tasks == 7
    assert compose(["env=reach", "algo=maml", "recipe=point2d-maml"]).algo.tasks == values["algo"]["tasks"]


@pytest.mark.parametrize("agent", ["transformer", "mlp"])
def test_a_deviation_that_would_never_change_is_refused(agent: str) -> None:
    for value in (0.02, 2.7):
        assert LOG_STD_RANGE[0] < math.log(value) < LOG_STD_RANGE[1]
        assert compose([f"agent={agent}", f"agent.initial_std={value}"]).agent.options()["initial_std"] == value
    for value in (0.01, 3.0):
        with pytest.raises(ConfigError, match=rf"agent\.initial_std={value}: must be"):
            compose([f"agent={agent}", f"agent.initial_std={value}"])


def test_fomaml_is_maml_without_second_derivatives() -> None:
    second, first = (compose([f"algo={name}"]).algo.plain() for name in ("maml", "fomaml"))
    assert (second["inner"]["first_order"], first["inner"]["first_order"]) == (False, True)
    first["name"], first["inner"]["first_order"] = "maml", False
    assert first == second


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("budget.env_steps=4e6", "budget.env_steps", 4_000_000),
        ("budget.minutes=5", "budget.minutes", 5.0),
        ("algo.gamma=1", "algo.gamma", 1.0),
        ("algo.inner.clip=2", "algo.inner.max_grad_norm", 2.0),
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
    found: Any = compose([override]).plain()
    for name in path.split("."):
        found = found[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["iterations", "env_steps", "minutes"])
def test_a_limit_on_the_command_line_replaces_the_recipes(name: str) -> None:
    budget = compose([f"budget.{name}=3"]).budget.plain()
    assert budget == {"iterations": None, "env_steps": None, "minutes": None} | {name: 3}


def test_a_resumed_run_keeps_what_is_not_given() -> None:
    bare = compose(["resume=runs/x"])
    assert (bare.budget, bare.device) == (None, None)
    given = compose(["resume=runs/x", "budget.minutes=2", "device=cpu"])
    assert (given.budget.minutes, given.budget.iterations, given.device) == (2.0, None, "cpu")


def test_an_environment_of_the_users_own() -> None:
    config = compose(["env=my_package.my_module:MyEnv", "env.colour=red", "env.horizon=20"]).env.plain()
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


TOP = (
    "(valid: agent, algo, budget, checkpoint, device, env, evaluate, logger, report, resume, run_dir, seed, threads,"
    " torch_threads, trust)"
)


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
        (["algo.discount=1.5"], "algo.gamma=1.5: must be a number above 0 up to 1"),
        (["algo.inner.steps='${nope}'"], "algo.inner.steps: Interpolation key 'nope' not found"),
        (["budget=5"], "budget=5: is a group of settings (env_steps, iterations, minutes), set one of them"),
        (["budget.minutes=1", "budget.iterations=2"], "budget: must have exactly one of "),
        (["budget.iterations=null"], "budget: must have exactly one of iterations, env_steps, minutes (given: none"),
        (["agent=mlp", "agent.hidden=64"], "agent.hidden=64: must be a list [a, b, ...]; each entry an integer, 1"),
        (["env=custom"], "env.entry=null: must be package.module:Class, given as env=package.module:Class"),
        (["env=a.b:C:D"], "env=a.b:C:D: an environment of your own is written package.module:Class"),
        (["agent=mlp", "algo=in_context"], "algo=in_context: needs a policy that remembers, which agent=mlp here does"),
        (["algo=multitask", "agent.context=episode"], "agent.context=episode: algo=multitask is for a policy that"),
        (["resume=runs/x", "seed=3"], "seed=3: a resumed run keeps its own settings; only budget, device and trust"),
        (["resume=runs/x", "budget.iterations=0"], "budget.iterations=0: must be an integer, 1 or more, or null"),
        (["resume=runs/x", "budget=null"], "budget=null: is a group of settings (env_steps, iterations, minutes)"),
        (["resume=runs/x", "device=null"], "device=null: must be auto, cpu or an accelerator"),
        (["algo=reptile", "algo.inner.workers=2"], "algo.inner.workers=2: unknown key; "),
        (["algo.inner.rat=1"], "algo.inner.rat=1: unknown key; did you mean 'algo.inner.rate'? (valid in algo.inner: "),
        (["resume=runs/x", "budget.minutes=1", "budget.iterations=2"], "budget: must have exactly one of "),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(overrides: list[str], text: str) -> None:
    assert error_of(*overrides).startswith(text)


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """The configuration of training without any override."""
    return compose().plain()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seed", -1, "seed=-1: must be an integer from 0 to 4294967295"),
        ("seed", 1.5, "seed=1.5: must be an integer"),
        ("seed", True, "seed=true: must be an integer"),
        ("seed", float("inf"), "seed=inf: must be an integer"),
        ("algo.gamma", 0, "algo.gamma=0: must be a number above 0 up to 1"),
        ("algo.inner.rate", float("nan"), "algo.inner.rate=nan: must be a number above 0"),
        ("algo.outer.n_epochs", 1001, "algo.outer.n_epochs=1001: must be an integer from 1 to 1000"),
        ("algo.inner.adapt", "heads", "algo.inner.adapt=heads: must be one of all, head, body"),
        ("algo.warm_start.settings.tasks", 0, "algo.warm_start.settings.tasks=0: must be an integer, 1 or more"),
        ("algo.inner", 3, "algo.inner=3: is a group of settings ("),
        ("budget.minutes", -1, "budget.minutes=-1: must be a number above 0, or null"),
        ("device", "cuda:x", "device=cuda:x: must be auto, cpu or an accelerator that torch has, such as cuda, cuda:1"),
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
    if leaf == "hidden":
        config["agent"] = {"name": "mlp", "hidden": value}
    before = deepcopy(config)
    with pytest.raises(ConfigError) as caught:
        parse(train_settings(config), config)
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


def test_a_memory_of_one_episode_cannot_span_a_trial() -> None:
    with pytest.raises(
        ConfigError, match=r"^agent\.context=episode: the 3 episodes of a trial share one memory; choose "
    ):
        compose(["env=reach_search", "agent.context=episode"])
    compose(["env=reach_search", "agent.context=episode", "algo.trial_episodes=1"])
