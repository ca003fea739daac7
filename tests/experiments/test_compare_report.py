"""What the report of a comparison says of its numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import summary
from experiments.compare.report import (
    Result,
    curve_over_seeds,
    difference,
    document,
    markdown,
    rows,
    sentences,
    table,
    write,
)


def crafted(contender: str, seed: int, tasks: list[list[float]], env_steps: float = 4e6) -> Result:
    """A result whose tasks have these success rates, and returns ten times as large, by adaptation step."""
    measures = {"success": 1.0, "success_any_step": 1.0, "return": 10.0}
    count = len(tasks[0])
    curve: list[dict[str, Any]] = []
    for step in range(count):
        entry: dict[str, Any] = {"step": step, "episodes": 10 * step}
        for name, scale in measures.items():
            mean = scale * sum(task[step] for task in tasks) / len(tasks)
            entry[name] = {"mean": mean, "ci95": [mean - 0.05 * scale, mean + 0.05 * scale]}
        curve.append(entry)
    per_task = [{name: [scale * value for value in task] for name, scale in measures.items()} for task in tasks]
    evaluation = {"tasks": len(tasks), "curve": curve, "per_task": per_task}
    return Result(contender, seed, env_steps, 60.0, {"test": evaluation}, [f"train {contender} {seed}"])


def beyond(result: Result, tasks: list[list[float]]) -> Result:
    """The result with these success rates on the split `ood`."""
    other = crafted(result.contender, result.seed, tasks).evaluations["test"]
    return replace(result, evaluations={**result.evaluations, "ood": other})


def test_differences_are_paired() -> None:
    one = {0: crafted("maml", 0, [[0.1, 0.3], [0.7, 0.9]])}
    gap = difference(one, one, "success", before=True)
    assert list(gap) == pytest.approx([0.2] * 3)  # although the tasks differ by far more
    three = {seed: crafted("maml", seed, [[0.5, 0.6 + 0.1 * seed]]) for seed in (0, 1, 2)}
    rival = {seed: crafted("multitask", seed, [[0.2, 0.5]]) for seed in (0, 1, 3)}
    gap = difference(three, rival, "return")  # seeds 0 and 1: 1.0 and 2.0
    assert gap.mean == pytest.approx(1.5)
    assert gap.high == pytest.approx(1.5 + 12.706 * 0.5, rel=1e-3)


def test_the_report_says_what_the_numbers_say(tmp_path: Path) -> None:
    results = [crafted("in_context", 0, [[0.5], [0.5]], 3.5e6), crafted("maml", 0, [[0.5, 0.75], [0.7, 0.95]])]
    results.append(crafted("multitask", 0, [[0.0, 0.4], [0.2, 0.6]]))
    first, second = sentences("reach", results)
    assert "by +0.250 [+0.250, +0.250] in success at the end and +2.50 [+2.50, +2.50] in return" in first
    assert "(seed 0; 4.00M and 3.50M environment steps) is +0.350 [" in first
    assert "(seed 0; 4.00M and 4.00M environment steps) is +0.350 [" in second
    content = document("reach", results, False, "compare env=reach")
    row = next(line for line in table(content).splitlines() if line.startswith("| maml"))
    assert "| 0 | 4.0M | 1.0 min | 10 / 1 | 0.600 [0.550, 0.650]* -> 0.850 [0.800, 0.900]* |" in row
    files = write(tmp_path, content)
    assert {path.name for path in files} == {"reach.json", "reach.csv", "reach.md", "reach.png"}
    stored = json.loads((tmp_path / "reach.json").read_bytes())
    assert stored["contenders"]["maml"]["commands"] == ["train maml 0"]
    assert stored["sentences"] == [first, second]
    assert len((tmp_path / "reach.csv").read_text().splitlines()) == 1 + 3 * (1 + 2 + 2)
    assert (tmp_path / "reach.png").read_bytes()[:4] == b"\x89PNG"
    assert first in markdown(content)


def test_a_comparison_is_of_the_seeds_that_both_have() -> None:
    maml = [crafted("maml", seed, [[0.5, 0.6]], (4 + seed) * 1e6) for seed in (0, 1, 2)]
    equal, alone = crafted("in_context_equal", 0, [[0.5]]), [crafted("in_context", seed, [[0.4]]) for seed in (0, 1)]
    (one,) = sentences("reach", [*maml, equal, alone[0]])
    assert "(seed 0; 4.00M and 4.00M environment steps) is +0.100 [" in one
    (one,) = sentences("reach", [*maml, equal, *alone])  # as many steps are worth less than a second seed
    assert "(seeds 0 1; 4.50M and 4.00M environment steps) is +0.200 [" in one
    assert "beyond" not in one
    (one,) = sentences("reach", [beyond(maml[0], [[0.1, 0.4]])])
    assert "by +0.100 [" in one and "beyond the training ranges by +0.300 [" in one
    (one,) = sentences("reach", [*maml, crafted("multitask", 3, [[0.0, 0.4]]), crafted("in_context", 3, [[0.4]])])
    assert "minus" not in one


def test_seeds_are_joined_in_one_row() -> None:
    results = [crafted("maml", seed, [[0.5, 0.6 + 0.1 * seed]]) for seed in (0, 1, 2)]
    row = table(document("reach", results, False, "")).splitlines()[-1]
    assert "| 0 1 2 |" in row and "-> 0.700 [0.452, 0.948] |" in row  # 0.1 * 4.303 / sqrt(3)


def test_older_evaluations_lack_the_time_to_success() -> None:
    value = {"mean": 0.5, "ci95": [0.4, 0.6]}
    old: dict[str, Any] = {"step": 0, "episodes": 1, **dict.fromkeys(("success", "success_any_step", "return"), value)}
    new = old | {"episode": 2, "time_to_success": {"mean": 2.0, "ci95": [1.5, 2.5]}}
    (both,) = curve_over_seeds([[new], [new]])
    assert (both["episode"], both["time_to_success"]["mean"]) == (2, 2.0)
    assert curve_over_seeds([[old], [new]])[0].keys() == old.keys()
    content = {"contenders": {"in_context": {"curves": {"test": [old, new]}, "seeds": [0]}}}
    assert [row[4] for row in rows(content)[1:]].count("time_to_success") == 1
    run = {"env_steps": 1e6, "seconds": 60.0}
    groups = {("reach", "in_context"): [run | {"curve": [old, new]}]}
    head, _, before, after = summary.table(groups).splitlines()
    assert head.endswith("| return | time to success (s) |")
    assert before.endswith("|  |") and after.endswith("| 2.00 [1.50, 2.50]* |")
