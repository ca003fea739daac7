"""metrics.csv and TensorBoard: complete rows only, and nothing twice or missing after a resume."""

import csv
import math
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.config.composition import compose
from metarl.errors import RunFolderError
from metarl.run_folder import MetricsLog, RunFolder, metrics
from metarl.runs import train


def rows_of(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / "metrics.csv").read_text().splitlines()))


def scalars_of(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_rows_are_in_both_files_as_soon_as_they_are_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.append({"loss": 0.1, "iteration": 1.0})
    log.append({"iteration": 2, "loss": -1e-7})
    assert rows_of(tmp_path) == [["iteration", "loss"], ["1", "0.1"], ["2", "-1e-07"]]
    assert scalars_of(tmp_path, "loss") == [(1, pytest.approx(0.1)), (2, pytest.approx(-1e-7))]


def test_floats_come_back_exactly(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e300, 1e22, 5e-324, -0.0, math.inf, 123456789.0]
    with MetricsLog(tmp_path, 0, logger=None) as log:
        for i, value in enumerate(values):
            log.append({"iteration": i + 1, "value": value})
        log.append({"iteration": 100, "value": math.nan})
    *read, last = [row["value"] for row in RunFolder(tmp_path).read_metrics()]
    assert read == values
    assert math.isnan(last)


def test_columns_that_lack_or_are_new(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, logger=None) as log:
        log.append({"iteration": 1, "a": 1, "b": 2})
        log.append({"iteration": 2, "b": 3})
        log.append({"iteration": 3, "a": 4, "c, with a comma": 5})
        log.append({"c, with a comma": 6, "iteration": 4})
    assert rows_of(tmp_path) == [
        ["iteration", "a", "b", "c, with a comma"],
        ["1", "1", "2", ""],
        ["2", "", "3", ""],
        ["3", "4", "", "5"],
        ["4", "", "", "6"],
    ]
    assert RunFolder(tmp_path).read_metrics()[1] == {"iteration": 2.0, "b": 3.0}


@pytest.mark.parametrize("torn", ["", "9,0.", "9", "9,0.5,7\n"])
def test_a_resume_leaves_no_row_twice_and_none_missing(tmp_path: Path, torn: str) -> None:
    with MetricsLog(tmp_path, 0) as log:
        for iteration in range(1, 9):
            log.append({"iteration": iteration, "loss": 1.0})
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write(torn)
    with MetricsLog(tmp_path, 6) as log:
        assert [row[0] for row in rows_of(tmp_path)[1:]] == list("123456")
        for iteration in range(7, 12):
            log.append({"iteration": iteration, "loss": 2.0})
    expected = [(i, 1.0 if i <= 6 else 2.0) for i in range(1, 12)]
    assert [(int(i), float(loss)) for i, loss in rows_of(tmp_path)[1:]] == expected
    assert scalars_of(tmp_path, "loss") == expected


def test_a_resume_hides_the_events_of_a_killed_process(tmp_path: Path) -> None:
    killed = MetricsLog(tmp_path, 0)
    for iteration in range(1, 5):
        killed.append({"iteration": iteration, "loss": 1.0})
    events = next((tmp_path / "tensorboard").iterdir())
    events.write_bytes(events.read_bytes()[:-7])  # as a power cut may leave it
    with MetricsLog(tmp_path, 3) as log:
        log.append({"iteration": 4, "loss": 2.0})
    assert scalars_of(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_truncate_during_a_run(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        for iteration in (1, 2, 3):
            log.append({"iteration": iteration, "loss": 1.0})
        log.truncate(1)
        log.append({"iteration": 2, "loss": 5.0})
    assert rows_of(tmp_path)[1:] == [["1", "1"], ["2", "5"]]
    assert scalars_of(tmp_path, "loss") == [(1, 1.0), (2, 5.0)]


def test_a_row_without_iteration_is_refused(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log, pytest.raises(RunFolderError, match="needs 'iteration'; it has: loss"):
        log.append({"loss": 1.0})
    assert not (tmp_path / "metrics.csv").exists()


def test_a_foreign_table_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunFolderError, match="has no column 'iteration'"):
        MetricsLog(tmp_path, 0)
    assert (tmp_path / "metrics.csv").read_text() == "a,b\n1,2\n"


def test_a_file_that_was_taken_away_is_reported(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, logger=None) as log:
        log.append({"iteration": 1})
        (tmp_path / "metrics.csv").unlink()
        with pytest.raises(RunFolderError, match="cannot append to .*metrics.csv: No such file"):
            log.append({"iteration": 2})


def test_an_unwritable_tensorboard_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with MetricsLog(tmp_path, 0) as log, pytest.raises(RunFolderError, match="cannot write .*tensorboard: File exists"):
        log.append({"iteration": 1, "loss": 1.0})


def test_every_column_of_a_training_is_explained() -> None:
    tiny = ["env=point2d", "agent.hidden=[4]", "env.horizon=5", "algo.tasks=2", "algo.episodes=2", "device=cpu"]
    tiny += ["evaluate.tasks=2", "evaluate.episodes_per_step=2", "evaluate.steps=1", "budget.iterations=1"]
    for algo in ("maml", "reptile", "multitask"):
        columns = RunFolder(train(compose([*tiny, f"algo={algo}"]))).read_metrics()[0]
        for column in columns:
            told = re.sub("^term_.*", "term_<name>", column.replace("success_any_step_after", "..._after"))
            assert told in (metrics.__doc__ or ""), column
