"""Command lines of key=value."""

from __future__ import annotations

import pytest

from experiments.arguments import command, flag, given, numbers
from metarl.errors import ConfigError


def test_values_come_by_key_and_the_last_one_counts() -> None:
    assert given(["a=1", "b=x=y", "a=2"], ("a", "b", "c")) == {"a": "2", "b": "x=y"}


@pytest.mark.parametrize("argument", ["a", "d=1"])
def test_an_argument_that_is_none_is_named(argument: str) -> None:
    with pytest.raises(ConfigError, match=f"^{argument}: unknown argument"):
        given([argument], ("a", "b"))


def test_flags_are_true_or_false() -> None:
    assert flag({"quick": "true"}, "quick") and not flag({"quick": "false"}, "quick", otherwise=True)
    assert flag({}, "quick", otherwise=True) and not flag({}, "quick")
    with pytest.raises(ConfigError, match="quick=1: must be true or false"):
        flag({"quick": "1"}, "quick")


def test_numbers_are_different_integers() -> None:
    assert numbers({"seeds": "2,0,2"}, "seeds", (7,)) == (2, 0)
    assert numbers({}, "seeds", (7,)) == numbers({"seeds": ""}, "seeds", (7,)) == (7,)
    with pytest.raises(ConfigError, match="seeds=1,x: must be integers"):
        numbers({"seeds": "1,x"}, "seeds", (7,))


def test_a_command_helps_fails_and_works(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[list[str]] = []
    assert command(["--help"], "how to", seen.append, bare=True) == 0
    assert command([], "how to", seen.append, bare=False) == 2
    assert seen == [] and capsys.readouterr().out == "how to\nhow to\n"
    assert command([], "how to", seen.append, bare=True) == command(["a=1"], "how to", seen.append, bare=False) == 0
    assert seen == [[], ["a=1"]]

    def fails(_: list[str]) -> None:
        raise ConfigError("so it is")

    assert command(["a=1"], "how to", fails, bare=False) == 2
    assert capsys.readouterr().err == "error: so it is\n"
