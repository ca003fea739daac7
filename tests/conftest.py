"""Settings that every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

# pytest-xdist already keeps the cores busy; threads of torch inside each worker would only fight over them. Set here,
# before torch is imported, and inherited by the workers and by every subprocess that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# No deadline: a simulator's first call is slow. The same examples every time in CI, fresh ones elsewhere.
settings.register_profile("metarl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("metarl")


@pytest.fixture(scope="session", autouse=True)
def _away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that several tests share work in a temporary folder: a path that is not absolute must not lead here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(_deep(tmp_path_factory.mktemp("away")))
        yield


@pytest.fixture(autouse=True)
def _in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does every test, in a folder of its own."""
    monkeypatch.chdir(_deep(tmp_path_factory.mktemp("away")))


def _deep(folder: Path) -> Path:
    """A folder from which `../..` leads to a temporary one."""
    (folder / "a" / "b").mkdir(parents=True)
    return folder / "a" / "b"
