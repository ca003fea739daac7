"""A training ends with a page that has films, unless they are not wanted; and without them when they fail."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envs.errors import EnvsError
from metarl.assembly.opened import open_run
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import Interrupted, RunFolderError
from metarl.pages import report
from metarl.runs import train
from tests.metarl.test_pages import SHORT, films


def raising(error: BaseException) -> Callable[..., Path]:
    def fails(*_: object, **__: object) -> Path:
        raise error

    return fails


def test_a_page_that_cannot_be_written_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> Path:
        raise RunFolderError("the disk is full")

    monkeypatch.setattr(report, "write_report", fails)
    path = train(compose([*SHORT, "report=films", f"run_dir={tmp_path / 'run'}"]))
    said = capsys.readouterr().out
    assert "warning: no report: the disk is full\n" in said and "report: " not in said.replace("no report", "")
    assert (path / "evaluation" / "test.json").exists()


def test_training_ends_with_films_unless_they_are_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert TrainSettings.model_fields["report"].default == "films"
    path = train(compose([*SHORT, "report=films", "evaluate.split=ood", f"run_dir={tmp_path / 'films'}"]))
    assert capsys.readouterr().out.count(f"report: {path / 'report.html'}\n") == 1
    ours = films(path / "report.html")
    assert len(ours) == 3
    report.report_runs(compose([f"run={path}", "split=ood", f"out={tmp_path / 'again.html'}", "device=cpu"], "report"))
    assert films(tmp_path / "again.html") == ours, "metarl.report makes the same ones"
    capsys.readouterr()
    monkeypatch.setattr(report, "film_runs", lambda *_: pytest.fail("no film is wanted"))
    path = train(compose([*SHORT, "report=page", "evaluate.split=ood", f"run_dir={tmp_path / 'page'}"]))
    command = f"python -m metarl.report run={path} split=ood"
    assert f"report: {path / 'report.html'}; with films: {command}\n" in capsys.readouterr().out
    assert films(path / "report.html") == []
    path = train(compose([*SHORT, "report=none", f"run_dir={tmp_path / 'none'}"]))
    assert "report" not in capsys.readouterr().out and not (path / "report.html").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (EnvsError("there is no picture of it"), "warning: no films: there is no picture of it\n"),
        (ZeroDivisionError("of\nmine"), "warning: no films: ZeroDivisionError: of mine\n"),
    ],
)
def test_films_that_cannot_be_made_do_not_end_a_training(
    error: Exception, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metarl.pages.footage.render", raising(error))
    path = train(compose([*SHORT, "report=films", f"run_dir={tmp_path / 'run'}"]))
    said = capsys.readouterr().out
    assert line in said and f"report: {path / 'report.html'}\n" in said and "video: " in said
    assert films(path / "report.html") == [] and "without films" in (path / "report.html").read_text()


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is: a shell has what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_the_filming_has_a_whole_run_with_a_page(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    monkeypatch.setattr("metarl.pages.footage.render", lambda *_, **__: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=f"^stopped while filming; .* python -m metarl.report run={path}$") as caught:
        train(compose([*SHORT, "report=films", f"run_dir={path}"]))
    assert caught.value.signal == number
    assert films(path / "report.html") == [] and (path / "evaluation" / "test.json").exists()
    with open_run(path, "cpu").folder.writing():  # the lock is free
        assert open_run(path, "cpu").iteration == 1
