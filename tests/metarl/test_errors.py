"""The error classes and the hint for unknown names."""

import pytest

from agents.errors import PolicyError
from envs.errors import ModelError
from metarl.errors import KNOWN, CheckpointError, ConfigError, DeviceError, RenderError, RunFolderError, nearest


@pytest.mark.parametrize(
    "error", [ConfigError, RunFolderError, CheckpointError, DeviceError, RenderError, ModelError, PolicyError]
)
def test_commands_catch_every_error_of_the_three_packages(error: type[Exception]) -> None:
    with pytest.raises(KNOWN):
        raise error("text")


def test_commands_do_not_catch_mistakes_in_the_code() -> None:
    assert not issubclass(TypeError, KNOWN)
    assert not issubclass(KeyError, KNOWN)


@pytest.mark.parametrize(
    ("name", "valid", "hint"),
    [
        ("raech", ["reach", "point2d"], "did you mean 'reach'? (valid: point2d, reach)"),
        ("MAML", ["maml", "reptile"], "did you mean 'maml'? (valid: maml, reptile)"),
        ("something", ["point2d", "reach"], "(valid: point2d, reach)"),
        ("reach", [], "(valid: none)"),
    ],
)
def test_nearest_names_the_closest_and_lists_all(name: str, valid: list[str], hint: str) -> None:
    assert nearest(name, valid) == hint
