"""What the report of a comparison says of its numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.compare.contrasts import Contrast, Result, Side, sentences
from experiments.compare.kept import kept, merged
from experiments.compare.per_task import read
from experiments.compare.report import body, document, drawn, markdown, step_table, table, write


def crafted(
    contender: str, seed: int, tasks: list[list[float]], env_steps: float = 4e6, trial: int = 1, root: str = ""
) -> Result:
    """A result whose tasks have these success rates, and returns ten times as large, by adaptation step.

    Args:
        trial: how many of these entries are episodes of one trial.
    """
    measures = {"success": 1.0, "success_any_step": 1.0, "return": 10.0}
    count = len(tasks[0])
    curve: list[dict[str, Any]] = []
    for step in range(count):
        entry: dict[str, Any] = {"step": step // trial, "episodes": 10 * (step // trial) + step % trial}
        for name, scale in measures.items():
            mean = scale * sum(task[step] for task in tasks) / len(tasks)
            entry[name] = {"mean": mean, "ci95": [mean - 0.05 * scale, mean + 0.05 * scale]}
        curve.append(entry)
    per_task = [{name: [scale * value for value in task] for name, scale in measures.items()} for task in tasks]
    evaluation = {"tasks": len(tasks), "curve": curve, "per_task": per_task, "trial_episodes": trial}
    return Result(contender, seed, env_steps, 60.0, {"test": evaluation}, [f"train {contender} {seed}"], root=root)


def beyond(result: Result, tasks: list[list[float]]) -> Result:
    """The result with these success rates on the split `ood`."""
    other = crafted(result.contender, result.seed, tasks).evaluations["test"]
    return replace(result, evaluations={**result.evaluations, "ood": other})


def by_seed(*results: Result) -> dict[int, Result]:
    return {result.seed: result for result in results}


def test_contrasts_are_paired_by_task() -> None:
    one = by_seed(crafted("maml", 0, [[0.1, 0.3], [0.7, 0.9]]))
    gap = Contrast("", Side(one), Side(one, 0)).interval("success")
    assert list(gap) == pytest.approx([0.2] * 3)  # although the tasks differ by far more


@pytest.mark.parametrize("root", ["", "warm"])
def test_seeds_are_paired_where_they_have_the_same_beginning(root: str) -> None:
    # The seeds differ by far more than the contenders, and alike.
    ours = [crafted("a", seed, [[0.1 * seed + 0.01 * t + 0.2] for t in range(3)], root=root) for seed in (0, 1, 2)]
    theirs = [crafted("b", seed, [[0.1 * seed + 0.01 * t] for t in range(3)], root=root) for seed in (0, 1, 3)]
    contrast = Contrast("", Side(by_seed(*ours)), Side(by_seed(*theirs)))
    assert contrast.paired == bool(root)
    assert contrast.seeds == (([0, 1], [0, 1]) if root else ([0, 1, 2], [0, 1, 3]))
    gap = contrast.interval("success")
    assert gap.mean == pytest.approx(0.2 if root else 0.2 - 0.1 / 3)
    assert (gap.high - gap.low < 1e-6) == bool(root)


def test_a_lone_seed_is_compared_with_itself() -> None:
    ours = by_seed(*(crafted("a", seed, [[0.5 + 0.1 * seed], [0.5]]) for seed in (0, 1, 2)))
    theirs = by_seed(crafted("b", 1, [[0.2], [0.3]]))
    contrast = Contrast("", Side(ours), Side(theirs))
    assert contrast.alone and contrast.seeds == ([1], [1])
    assert contrast.interval("success").mean == pytest.approx(0.3)


def test_the_episodes_of_a_trial_stand_side_by_side() -> None:
    rising = [[0.1, 0.3, 0.6, 0.2, 0.5, 0.9], [0.3, 0.5, 0.8, 0.2, 0.5, 0.9]]
    results = [crafted("in_context", 0, [task[:3] for task in rising], trial=3)]
    results += [crafted("in_context_episode", 0, [[0.4], [0.5]]), crafted("in_context+sgd", 0, rising, trial=3)]
    content = document("reach_search", results, False, "")
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table(content).splitlines()}
    head = cells["contender"]
    assert head[5:8] == ["success, episode 1", "success, episode 2", "success, episode 3"]
    assert [cell[:5] for cell in cells["in_context"][5:8]] == ["0.200", "0.400", "0.700"]
    assert [cell[:5] for cell in cells["in_context_episode"][5:8]] == ["0.450"] * 3
    assert cells["in_context+sgd"][4] == "10 / 1" and cells["in_context"][4] == "0 / 0"
    assert cells["in_context+sgd"][7] == "0.700 [0.650, 0.750]* -> 0.900 [0.850, 0.950]*"
    head, gain, memory, tuned = sentences("reach_search", results)
    assert "intervals at 98.33%, as there are 3 contrasts" in head
    assert "episode 3 minus episode 1 (seed 0): +0.500 [" in gain
    assert "memory of the trial minus memory of the episode" in memory and ": +0.250 [" in memory
    assert tuned.startswith("in_context+sgd after adaptation minus in_context (") and "+0.200 [" in tuned


def test_success_differs_by_one_at_most() -> None:
    wild = [crafted("in_context", seed, [[value], [1.0]]) for seed, value in ((0, 0.0), (1, 1.0))]
    theirs = [crafted("oracle", seed, [[1.0], [0.9]]) for seed in (0, 1)]
    sides = Side(by_seed(*wild)), Side(by_seed(*theirs))
    assert list(Contrast("", *sides).interval("success"))[1:] == [-1.0, 1.0]
    assert Contrast("", *sides).interval("return").low < -10.0


def test_returns_that_do_not_compare_are_left_out() -> None:
    results = [crafted("in_context", 0, [[0.1, 0.3], [0.3, 0.5]], trial=2)]
    content = document("navigate_search", results, False, "", ["success"])
    text = "\n".join(body(content))
    assert "return, episode" not in text and "in return" not in text and "Returns are those of training" in text
    usual = "\n".join(body(document("navigate_search", results, False, "")))
    assert "return, episode 2 |" in usual and "in return" in usual and "Returns are" not in usual


def test_what_sets_runs_apart_stands_below_the_table() -> None:
    def said(*notes: str) -> list[str]:
        runs = [replace(crafted("maml", seed, [[0.5]]), note=text) for seed, text in enumerate(notes)]
        return [line for line in body(document("reach", runs, False, "")) if line.startswith("- maml: ")]

    assert said("by hand", "by hand") == ["- maml: by hand"] and said("", "") == []
    assert said("by hand", "", "by hand") == ["- maml: seed 0 2 by hand"]


def test_more_contrasts_are_wider() -> None:
    noisy = [[0.1, 0.5], [0.3, 0.4], [0.2, 0.9], [0.4, 0.6]]
    few = [crafted("maml", seed, noisy[seed:] + noisy[:seed]) for seed in (0, 1, 2)]
    many = [*few, *(replace(result, contender=name) for result in few for name in ("fomaml", "reptile", "multitask"))]

    def width(results: list[Result]) -> float:
        low, high = sentences("cheetah_dir", results)[1].split("[")[1].split("]")[0].split(", ")
        return float(high) - float(low)

    assert width(many) > 1.2 * width(few)


def test_every_gradient_step_has_its_column() -> None:
    results = [crafted("maml", 0, [[0.0, 0.9, 0.8, 0.7]]), crafted("in_context", 0, [[0.5]])]
    row = step_table(document("cheetah_dir", results, False, "")).splitlines()[-1]
    assert row.startswith("| maml |")
    assert [cell.split(" [")[0] for cell in row.split(" | ")[1:]] == [
        *("0.000", "0.900", "0.800", "0.700"),
        *("0.00", "9.00", "8.00", "7.00"),
    ]
    assert step_table(document("reach", results[1:], False, "")) == ""
    head = step_table(document("reach", [crafted("maml", 0, [[0.1] * 11])], False, "")).splitlines()[0]
    assert "success, 3 steps | success, 10 steps | return, 0 steps" in head


def test_the_report_says_what_the_numbers_say(tmp_path: Path) -> None:
    results = [crafted("in_context", 0, [[0.5], [0.5]], 3.5e6)]
    results.append(crafted("in_context+maml", 0, [[0.5, 0.75], [0.7, 0.95]]))
    results.append(crafted("multitask", 0, [[0.0, 0.4], [0.2, 0.6]]))
    said = sentences("reach", results)
    assert "before it took any (seed 0): +0.250 [+0.250, +0.250]* in success and +2.50 [+2.50, +2.50]*" in said[1]
    assert "minus in_context (seed 0; 4.00M and 3.50M environment steps): +0.350 [" in said[2]
    assert "minus multitask, both adapted (seed 0; 4.00M and 4.00M environment steps): +0.350 [" in said[3]
    content = document("reach", results, False, "compare env=reach")
    row = next(line for line in table(content).splitlines() if line.startswith("| in_context+maml"))
    assert "| 0 | 4.0M | 1.0 min | 10 / 1 | 0.600 [0.550, 0.650]* -> 0.850 [0.800, 0.900]* |" in row
    files = write(tmp_path, content, results)
    assert {path.name for path in files} == {"reach.json", "reach.csv", "reach.md", "reach.png", "reach-tasks.json.gz"}
    stored = json.loads((tmp_path / "reach.json").read_bytes())
    assert stored["contenders"]["in_context+maml"]["runs"][0]["commands"] == ["train in_context+maml 0"]
    assert stored["sentences"] == said
    assert len((tmp_path / "reach.csv").read_text().splitlines()) == 1 + 3 * (1 + 2 + 2)
    assert (tmp_path / "reach.png").read_bytes()[:4] == b"\x89PNG"
    assert said[1] in markdown(content)
    tasks = tmp_path / "reach-tasks.json.gz"
    assert read(tasks)["in_context+maml"]["0"]["test"]["success"] == [[0.5, 0.75], [0.7, 0.95]]
    before = tasks.read_bytes()
    write(tmp_path, content, results)
    assert tasks.read_bytes() == before


def test_what_lies_beyond_the_ranges_is_said_besides() -> None:
    (_, one) = sentences("reach", [beyond(crafted("maml", 0, [[0.5, 0.6]]), [[0.1, 0.4]])])
    assert ": +0.100 [" in one and "beyond the training ranges +0.300 [" in one


def test_seeds_are_joined_in_one_row() -> None:
    results = [crafted("maml", seed, [[0.5, 0.6 + 0.1 * seed]]) for seed in (0, 1, 2)]
    row = table(document("reach", results, False, "")).splitlines()[-1]
    assert "| 0 1 2 |" in row and "-> 7.00 [4.5" in row  # 1 * 4.303 / sqrt(3) to either side


def test_results_are_kept_for_a_comparison_that_lacks_their_runs(tmp_path: Path) -> None:
    rising = [[0.1, 0.3, 0.6], [0.3, 0.5, 0.8]]
    first = replace(beyond(crafted("in_context", 0, rising, trial=3, root="warm"), rising), settings="a", note="x")
    other = replace(crafted("oracle", 0, [[0.9], [1.0]]), settings="b")
    write(tmp_path, document("reach", [first, other], False, ""), [first, other])
    back = kept(tmp_path, "reach")
    assert back == [first, other]
    fresh = [replace(crafted("in_context", seed, rising, trial=3), settings="a") for seed in (1, 0)]
    today = {("in_context", 0): "a", ("in_context", 1): "a", ("oracle", 0): "changed since"}
    assert merged(fresh[:1], back, lambda name, seed: today[name, seed]) == [first, fresh[0]]
    assert merged(fresh, back, lambda name, seed: today[name, seed]) == fresh[::-1]  # what has been run again counts
    assert kept(tmp_path / "elsewhere", "reach") == []


def test_of_trials_a_picture_shows_what_is_after_the_last_step() -> None:
    def entries(*places: tuple[int, int]) -> list[dict[str, int]]:
        return [{"step": step, "episode": episode} for step, episode in places]

    plain, tuned = entries((0, 1), (0, 2)), entries((0, 1), (0, 2), (1, 1), (1, 2))
    assert drawn({"plain": plain, "tuned": tuned}) == {"plain": plain, "tuned": tuned[2:]}
    lone = {"maml": [{"step": 0}, {"step": 1}]}
    assert drawn(lone) == lone
