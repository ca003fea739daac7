"""What a soak test calls good, and that it watches a real training."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest

from experiments import soak
from experiments.soak import Sample, judge

GIB = 2**30


def samples(rss: float = 0.0, descriptors: int = 0, threads: int = 0) -> list[Sample]:
    """An hour, with so much more at its end; it grows in the first five minutes, which do not count."""
    made = []
    for second in range(0, 3600, 5):
        warm, share = min(second / 300, 1.0), max(second - 300, 0) / 3300
        counts = (9 + round(share * descriptors), 5 + round(share * threads))
        made.append(Sample(second, int(GIB * (0.5 + 0.5 * warm) * (1 + rss * share)), *counts))
    return made


def test_a_training_that_keeps_its_size_is_good() -> None:
    verdict = judge(samples())
    assert verdict.good and verdict.growth == 0.0 and verdict.descriptors == (9, 9) and verdict.threads == (5, 5)
    assert judge(samples(rss=0.015)).good


@pytest.mark.parametrize("growth", [{"rss": 0.03}, {"descriptors": 1}, {"threads": 1}])
def test_a_training_that_grows_is_bad(growth: dict[str, float]) -> None:
    assert not judge(samples(**growth)).good  # type: ignore[arg-type]


def test_files_that_are_open_now_and_then_are_no_leak() -> None:
    made = [s._replace(descriptors=9 + (number % 7 == 0)) for number, s in enumerate(samples())]
    assert judge(made).good and judge(made).descriptors == (9, 10)


def test_too_short_to_tell_is_bad() -> None:
    assert not judge(samples()[:65]).good


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_process_is_sampled() -> None:
    with open(os.devnull) as _:
        more = soak.sample(os.getpid(), 1.0)
    less = soak.sample(os.getpid(), 2.0)
    assert more.descriptors == less.descriptors + 1
    assert 10**7 < less.rss_bytes < 10**12 and less.threads >= 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a stand-in for the training, which takes the settings and ends when it is interrupted."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\nexec sleep 100\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    words = ["--minutes", "0.01", "--every", "0.02", "--warm-up", "0.2", "--out", str(tmp_path / "out"), "env=point2d"]
    assert soak.main(words) == 0
    assert capsys.readouterr().out.startswith(
        "good: 0 iterations in 0.01 minutes; after the first 0.2 s memory grew by"
    )
    said = (tmp_path / "said").read_text()
    assert said.startswith("-m metarl.train env=point2d budget.minutes=1000000 run_dir=")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(rows) > 10 and int(rows[-1]["rss_bytes"]) > 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["verdict"]["good"] is True and content["settings"] == ["env=point2d"]
    stand_in.write_text("#!/bin/sh\necho 'error: no'\nexit 2\n")
    assert soak.main(words) == 1
    assert "error: training ended with status 2: ['error: no']" in capsys.readouterr().err
