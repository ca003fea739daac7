"""Nonsense of every kind ends in one line of a known error, and leaves no half-written run.

Fifty cases run with the other tests, the same ones every time; `pytest -m nightly` runs five hundred fresh ones.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.core.tasks import SPLITS
from metarl import runs
from metarl.config.composition import compose
from metarl.config.parsing import COMMANDS, leaves, train_settings
from metarl.errors import KNOWN, Interrupted, RunWarning
from metarl.evaluation import films as rendering
from metarl.run_folder import RunFolder
from metarl.training.progress import Progress
from tests.metarl.broken_environments import GYM, GYM_PIECES, OWN, PIECES

NUMBER = count()
TINY = ["env.horizon=3", "algo.tasks=2", "algo.episodes=2", "algo.outer.epochs=1", "algo.outer.minibatches=1"]
TINY += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "checkpoint.every=1"]
TINY += ["device=cpu", "budget.iterations=2", "report=page"]
POINT = ["env=point2d", "agent.hidden=[4]", *TINY]
# Small numbers cost nothing and large ones do not fit into any memory: nothing in between, which only takes long.
VALUES = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "1.5",
    "1e-9",
    "1000000000000000",
    "-1e400",
    "nan",
    "inf",
    "true",
    "null",
    "x",
    "''",
]
VALUES += [
    "[]",
    "[1]",
    "[0,1]",
    "[2,1]",
    "[[0,0],[1,1]]",
    "[nan,1]",
    "[a,b]",
    "{}",
    "{a:1}",
    "[1",
    "${x}",
    "${oc.env:HOME}",
]
VALUES += [
    "../..",
    "/",
    "a/b",
    "\\u2603",
    "a=b",
    "'a b'",
    "cuda:77",
    "test",
    "ood",
    "train",
    "mlp",
    "transformer",
    "maml",
]
OVERRIDES = st.tuples(st.integers(0, 10**6), st.sampled_from(VALUES))
ORDINARY = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
NIGHTLY = dict(deadline=None, suppress_health_check=list(HealthCheck))

# Where the training of a fuzzed configuration ends, if it goes as far as one iteration.
ENOUGH = Interrupted("enough")


@contextmanager
def quick() -> Iterator[None]:
    """Training ends after an iteration; warnings about the run are expected."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)

        def show(*_: object) -> None:
            raise ENOUGH

        patch.setattr(Progress, "show", show)
        yield


def attempt(action: Callable[[], object]) -> None:
    """Run an action, which may fail in one of the known ways, with something to read."""
    try:
        with quick():
            action()
    except KNOWN as error:
        text = " ".join(str(error).split())
        assert 3 < len(text) < 2000, repr(error)


def check_whole(path: Path) -> None:
    """Either there is no run, or one that can be opened."""
    if not path.exists() or not any(path.iterdir()):
        return
    RunFolder.open(path).load_checkpoint()
    assert not list(path.glob("**/.*.tmp"))


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of point2d with two checkpoints."""
    path = tmp_path_factory.mktemp("fuzz") / "point"
    return runs.train(compose([*POINT, f"run_dir={path}"]))


@pytest.fixture(scope="module")
def working_folder() -> Path:
    """Where the fixtures of this module work."""
    return Path.cwd()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for everything."""
    return tmp_path_factory.mktemp("cases")


TRAIN = train_settings({"algo": {"name": "maml"}, "agent": {"name": "transformer"}})
KEYS = sorted(key for key, _ in leaves(TRAIN) if key not in ("run_dir", "resume")) + [
    "env.tasks.goal",
    "env.colour",
    "x",
]


def drive_training(base: Path, chosen: list[tuple[int, str]]) -> None:
    """Training with one to three settings that are anything."""
    path = base / f"run-{next(NUMBER)}"
    given_ = [f"{KEYS[number % len(KEYS)]}={value}" for number, value in chosen]
    attempt(lambda: runs.train(compose([*POINT, *given_, f"run_dir={path}"])))
    check_whole(path)
    shutil.rmtree(path, ignore_errors=True)


RANGES = st.recursive(
    st.one_of(st.floats(width=32), st.integers(-(10**30), 10**30), st.sampled_from(["box", "sphere", "x", None, True])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=6,
)
FAMILIES = {"point2d": "goal", "reach": "payload_mass", "grasp": "object_shape", "cheetah_dir": "direction"}


def drive_ranges(base: Path, family: str, name: str | None, value: Any) -> None:
    """Environments with any task range, and steps in what can be made."""
    from envs.registry import make

    def use() -> None:
        env = make(family, 2, threads=1, horizon=3, tasks_override={name or FAMILIES[family]: value})
        for split in SPLITS:
            with suppress(*KNOWN):
                env.set_tasks(env.distribution.published(split, 2))
                env.reset()

    attempt(use)


def drive_reading(base: Path, point: Path, command: str, chosen: list[tuple[int, str]]) -> None:
    """Evaluation and rendering with settings that are anything."""
    keys = sorted(key for key, _ in leaves(COMMANDS[command]) if key != "run") + ["x.y"]
    given_ = [f"{keys[number % len(keys)]}={value}" for number, value in chosen]
    film = [f"out={base / 'film.gif'}", "width=16", "height=16"] if command == "render" else ["tasks=2", "episodes=2"]
    task = rendering.render_run if command == "render" else runs.evaluate_run
    attempt(lambda: task(compose([f"run={point}", *film, *given_], command)))
    assert RunFolder.open(point).load_checkpoint().iteration == 2
    assert not list(point.glob("**/.*.tmp"))


FILES = ["config.yaml", "metrics.csv", "checkpoints/best.json"]
FILES += [f"checkpoints/iteration-00000{n}/{name}" for n in (1, 2) for name in ("state.json", "tensors.safetensors")]
DAMAGES = ["flip", "cut", "grow", "empty", "swap", "json", "yaml", "gone", "folder", "number", "shape", "record"]
GARBAGE: dict[str, list[Any]] = {
    "json": [[], {}, 3, None, "x", {"format": "metarl-checkpoint"}, {"iteration": []}, {"iteration": 10**30}],
    "number": [-1, 10**15, 1e400, "x", None, [], {}, True, [[1]]],
}


def damage(path: Path, kind: str, name: str, dice: random.Random) -> None:
    """One thing wrong with a run."""
    file = path / name
    content = file.read_bytes()
    at = dice.randrange(len(content))
    if kind == "flip":
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :])
    elif kind in ("cut", "empty"):
        file.write_bytes(content[: at if kind == "cut" else 0])
    elif kind == "grow":
        file.write_bytes(content + dice.randbytes(9))
    elif kind == "swap":
        file.write_bytes((path / dice.choice(FILES)).read_bytes())
    elif kind == "json":
        file.write_text(json.dumps(dice.choice(GARBAGE["json"])))
    elif kind in ("gone", "folder"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
    elif kind in ("yaml", "number"):  # a setting with another value, or none
        config = yaml.safe_load((path / "config.yaml").read_text())
        group, keys = config, dice.choice(KEYS + ["resumed", "versions", "format", "budget", "algo", "env"]).split(".")
        for key in keys[:-1]:
            group = group.setdefault(key, {}) if isinstance(group, dict) else {}
        if isinstance(group, dict):
            group.pop(keys[-1], None)
            group |= {keys[-1]: dice.choice(GARBAGE["number"])} if kind == "number" else {}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    else:  # a sound checkpoint of something else
        run = RunFolder.open(path)
        iteration, tensors, state = run.load_checkpoint()
        if kind == "shape":
            key = dice.choice(list(tensors))
            tensors[key] = dice.choice([tensors[key].double(), tensors[key].flatten()[:1], tensors[key][None]])
        else:
            state[dice.choice(list(state))] = dice.choice(GARBAGE["number"])
        run.save_checkpoint(iteration, tensors, state)


def drive_damage(base: Path, point: Path, kind: str, name: str, seed: int, resumed: bool) -> None:
    """A run with something wrong is opened, or resumed."""
    path = base / f"damaged-{next(NUMBER)}"
    shutil.copytree(point, path)
    damage(path, kind, name, random.Random(seed))

    def use() -> None:
        if resumed:
            runs.train(compose([f"resume={path}", "budget.iterations=3"]))
        else:
            run = runs.open_run(path)
            run.environment(2, 0)

    attempt(use)
    shutil.rmtree(path)


def drive_environment(base: Path, kind: str, seed: int) -> None:
    """Training in an environment of the user's own that has one or two things wrong."""
    dice = random.Random(seed)
    template, pieces = {"batched": (OWN, PIECES), "gymnasium": (GYM, GYM_PIECES)}[kind]
    chosen = {name: choices[0] for name, choices in pieces.items()}
    for name in dice.sample(sorted(pieces), dice.choice([1, 1, 2])):
        chosen[name] = dice.choice(pieces[name])
    module = f"fuzzed_{next(NUMBER)}"
    source = template.format(**chosen)
    missing = dice.choice(["", "", "", "    def reset", "    def step"])
    (base / f"{module}.py").write_text(source.replace(missing, "    def other") if missing else source)
    path = base / f"run-{next(NUMBER)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(base))
        entry = [f"env={module}:Own", "agent=mlp", "agent.hidden=[4]", *TINY, f"run_dir={path}"]
        attempt(lambda: runs.train(compose(entry)))
    check_whole(path)
    shutil.rmtree(path, ignore_errors=True)


SETTINGS = st.lists(OVERRIDES, min_size=1, max_size=3)
CASES: dict[str, tuple[Callable[..., None], dict[str, Any], int, int]] = {
    # driver, strategies, cases of every day, cases of the night
    "training": (drive_training, {"chosen": SETTINGS}, 12, 150),
    "ranges": (
        drive_ranges,
        {
            "family": st.sampled_from(sorted(FAMILIES)),
            "name": st.sampled_from([None, None, None, "x"]),
            "value": RANGES,
        },
        10,
        100,
    ),
    "reading": (drive_reading, {"command": st.sampled_from(["evaluate", "render"]), "chosen": SETTINGS}, 6, 60),
    "damage": (
        drive_damage,
        {
            "kind": st.sampled_from(DAMAGES),
            "name": st.sampled_from(FILES),
            "seed": st.integers(0, 2**32),
            "resumed": st.booleans(),
        },
        12,
        120,
    ),
    "environment": (
        drive_environment,
        {"kind": st.sampled_from(["batched", "gymnasium"]), "seed": st.integers(0, 2**32)},
        10,
        100,
    ),
}


@pytest.mark.parametrize("scope", ["test", "module"])
def test_a_drawn_path_leads_to_a_temporary_folder(scope: str, point: Path, working_folder: Path) -> None:
    folder = Path.cwd() if scope == "test" else working_folder
    assert (folder / "../..").resolve().is_relative_to(point.parents[1])  # where pytest keeps the folders of this run


def test_there_are_as_many_cases_as_promised() -> None:
    assert sum(cases for *_, cases, _ in CASES.values()) == 50
    assert sum(cases for *_, cases in CASES.values()) >= 500


def drive(name: str, base: Path, point: Path, options: dict[str, Any], nightly: bool) -> None:
    """All cases of a driver."""
    driver, strategies, day, night = CASES[name]
    fixed = {"base": base} | ({"point": point} if name in ("reading", "damage") else {})

    @settings(max_examples=night if nightly else day, **options)
    @given(**strategies)
    def cases(**drawn: Any) -> None:
        driver(**fixed, **drawn)

    cases()


@pytest.mark.parametrize("name", CASES)
def test_nonsense_is_one_line(name: str, base: Path, point: Path) -> None:
    drive(name, base, point, ORDINARY, nightly=False)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_much_nonsense_is_one_line(name: str, base: Path, point: Path) -> None:
    drive(name, base, point, NIGHTLY, nightly=True)
