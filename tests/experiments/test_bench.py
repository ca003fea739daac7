"""What is timed is the same mathematics on both sides."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.bench import before, environment, gpu, gradient, growth, latency, metaworld
from experiments.bench.__main__ import main
from experiments.bench.gradient_peers import by_loop, replica
from experiments.bench.measure import MissingPeer, Row
from experiments.bench.trained import Trained, trained


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The number of torch threads, which the measurement sets, is what it was."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def test_the_gradient_is_that_of_a_loop_over_tasks() -> None:
    policy, support, query = gradient.problem(3, 2, 5)
    log_rates = gradient.learner_of(policy, support, compile=False).rate_parameters
    ours = gradient.our_gradient(policy, support, query, compile=False)()
    theirs = by_loop(replica(policy, "math"), log_rates, support, query)
    assert gradient.TOLERANCE.met(gradient.difference(ours, theirs))


def test_an_accelerator_is_compared_with_the_cpu() -> None:
    """With the CPU on both sides: the same work, so that neither can be far ahead, and the same numbers."""
    bench = gpu.Bench(torch.device("cpu"), quick=True)
    rows = [row for measure in (gpu.acting, gpu.widths) for row in measure(bench)]
    assert [row.name for row in rows] == [
        "acting in 8 simulations",
        "width 32: acting in 4 simulations",
        "width 32: gradient of 4 x 5 steps",
    ]
    assert all(row.group == "gpu" and row.unit == "x" and 0.0 < row.low <= row.value for row in rows)


def test_what_is_computed_on_both_sides_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = gpu.Bench(torch.device("cpu"), quick=True)
    monkeypatch.setattr(gpu, "ALGORITHMS", ("reptile",))
    (row,) = gpu.correctness(bench)
    assert row.value == 0.0 and row.target == gpu.ROUNDING
    seeds = iter((0, 1))
    monkeypatch.setattr(gpu, "_iterated", lambda settings, device: {"x": torch.tensor([2.0 + next(seeds)])})
    (row,) = gpu.correctness(bench)
    assert row.value == pytest.approx(0.5) and row.target is not None and not row.target.met(row.value)


def test_a_dry_run_measures_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, with the CPU in the accelerator's place: nothing differs, and neither side is far ahead."""
    assert main(["gpu", "--dry", "--out", str(tmp_path / "gpu.json")]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["settings"] == {"groups": ["gpu"], "quick": True}
    rows = {row["name"]: row for row in result["rows"]}
    assert "Python" in capsys.readouterr().out  # the table, whose long names are folded
    for part in (
        *(f"{algo}: parameters after an iteration differ" for algo in gpu.ALGORITHMS),
        "acting in 8 simulations",
        "rollout of 4 simulations of reach",
        "width 32: gradient of 4 x 5 steps",
        *(f"{algo}: {what}" for algo in ("maml", "in_context") for what in ("iteration", "its rollouts", "its update")),
        "meta-gradient 2 x 2 x 5 against the CPU",
        "meta-gradient 2 x 2 x 5 against loop",
        "default reach run",
    ):
        assert any(name.startswith(part) for name in rows), part
    assert all(0.0 < row["low"] <= row["value"] for row in rows.values() if row["unit"] == "x")
    assert [name for name, row in rows.items() if row["met"] is False] == []
    assert rows["default reach run"]["detail"].startswith("with its evaluation; iteration 1,")
    assert rows["environment steps per second"]["value"] > 0.0


def test_time_runs_out_and_the_rest_is_shorter() -> None:
    late = gpu.Bench(torch.device("cpu"), quick=False, began=-1e9)
    calls: list[str] = []
    late.faster("name", {side: lambda side=side: calls.append(side) for side in ("there", "here")})
    assert calls.count("there") == calls.count("here") == 3  # to warm up, to see how long it takes, and one that counts


@pytest.mark.parametrize(("groups", "name"), [(["latency"], "latency.json"), (["latency", "memory"], "bench.json")])
def test_one_group_does_not_take_the_place_of_all(
    groups: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.bench.__main__.RESULTS", tmp_path)
    monkeypatch.setattr("experiments.bench.__main__._measurements", lambda *_: [])
    assert main(groups) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_mistake_loses_nothing_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> list[Row]:
        raise RuntimeError("no memory")

    measured = Row("memory", "a figure", 2.0, 1.0, 3.0, "x")
    monkeypatch.setattr("experiments.bench.__main__._measurements", lambda *_: [lambda: [measured], fail])
    with pytest.raises(RuntimeError, match="no memory"):
        main(["memory", "--out", str(tmp_path / "bench.json")])
    assert "a figure" in capsys.readouterr().out
    for out in (tmp_path, tmp_path / "nowhere" / "bench.json"):
        with pytest.raises(SystemExit):
            main(["memory", "--out", str(out)])
        assert "must be a file in a folder that there is" in capsys.readouterr().err


def test_how_long_an_action_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported has a limit on its tail, for each policy."""
    agent = SimpleNamespace(run=SimpleNamespace(policy=SimpleNamespace(max_length=3)))
    monkeypatch.setattr(latency, "load", lambda *_: agent)
    monkeypatch.setattr(latency, "_adapted", lambda agent: agent)
    for contender in ("_predicting", "_onnx"):
        monkeypatch.setattr(latency, contender, lambda _: lambda: lambda: None)
    rows = latency.latency(quick=True)
    wanted = {row.name: row.target.bound for row in rows if row.target is not None}
    assert len(rows) == 6 * len(latency.POLICIES) and all(row.unit == "ms" for row in rows)
    for policy in latency.POLICIES:
        assert wanted.pop(f"ONNX, 99th percentile, {policy}") == 0.25
    assert wanted == {}


def test_without_an_accelerator_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for arguments, words in (
        (["gpu"], "torch finds no accelerator here; --dry sees on the CPU whether everything runs"),
        (["gpu", "memory"], "gpu stands alone"),
        (["memory", "--dry"], "--dry belongs to gpu"),
        (
            ["gpo"],
            "unknown group 'gpo' (valid: environment, metaworld, acting, latency,",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_meta_world_is_compared_with_the_engine_on_the_same_states(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("metaworld", reason="pip install --no-deps metaworld==3.1.1")
    monkeypatch.setattr(metaworld, "SIMULATIONS", 10)
    monkeypatch.setattr(environment, "STEPS", 2)
    rows = metaworld.against_engine(quick=True)
    assert [row.name for row in rows] == ["ML1 reach / bare engine", "ML10 / bare engine"]
    assert all(0.0 < row.low <= row.value < 2.0 for row in rows)


def test_without_meta_world_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for measurement in metaworld.MEASUREMENTS:
        with pytest.raises(MissingPeer, match="pip install --no-deps metaworld==3.1.1"):
            measurement(True)


def test_the_exponent_is_that_of_the_later_points() -> None:
    """What does not grow hides it in the first ones."""
    cubes = {point: 2.0 * point**3 for point in (10, 100, 1000)}
    assert growth.exponent(cubes) == pytest.approx(3.0)
    assert growth.exponent({1: 500.0, 2: 500.0} | cubes) == pytest.approx(3.0)


def test_growth_is_measured_along_each_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grows(settings: Sequence[str]) -> Trained:
        given = dict(word.split("=") for word in settings)
        length = float(given["env.horizon"]) if "env.horizon" in given else 50.0
        return Trained(float(given.get("algo.tasks", 200)), length**2, float(given.get("agent.width", 32)) ** 3)

    monkeypatch.setattr(growth, "trained", grows)
    rows = growth.growth(quick=False)
    found = {row.name: (row.value, row.target.met(row.value)) for row in rows if row.target is not None}
    assert found["rollout over simulations"] == (pytest.approx(1.0), True)
    assert found["update over tokens"] == (pytest.approx(2.0), True)
    assert found["peak over width"] == (pytest.approx(3.0), False)
    growth.draw(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_training_is_compared_with_an_earlier_state(monkeypatch: pytest.MonkeyPatch) -> None:
    if subprocess.run(before._git("rev-parse", "HEAD"), capture_output=True).returncode:
        pytest.skip("this is no clone: there is no history")
    monkeypatch.setattr(before, "BEFORE", "HEAD")
    monkeypatch.setattr(before, "KINDS", {"point2d": ["env=point2d", "algo=in_context"]})
    (row,) = before.against(quick=True)
    assert row.name == "an iteration of point2d: now / before" and 0.1 < row.value < 10.0
    listed = subprocess.run(before._git("worktree", "list"), capture_output=True, text=True, check=True).stdout
    assert "/before " not in listed, "it is gone afterwards"
    monkeypatch.setattr(before, "BEFORE", "0000000")
    with pytest.raises(MissingPeer, match="needs the project's history with the commit 0000000"):
        before.against(quick=True)


def test_a_training_is_timed_and_one_that_fails_says_why() -> None:
    small = ["env=point2d", "algo=in_context", "algo.tasks=2", "env.horizon=3", "device=cpu", "budget.iterations=2"]
    found = trained([*small, "evaluate.tasks=1", "evaluate.steps=0"])
    assert found.rollout > 0.0 and found.update > 0.0 and 0.1 < found.peak < 4.0
    with pytest.raises(RuntimeError, match="error: .*env=poin: "):
        trained(["env=poin"])
