"""Settings by dotted key."""

from agents.settings import Settings, setting


class Inner(Settings):
    steps: int = setting(1, "a number")
    ranges: dict[str, list[float]] = setting({}, "a group with names of its own")


class Outer(Settings):
    inner: Inner = Inner()
    widths: list[int] = setting([4, 8], "a list is one setting")
    limit: float | None = setting(None, "or nothing")


def test_settings_by_dotted_key() -> None:
    assert Outer().flat() == {"inner.steps": 1, "widths": [4, 8], "limit": None}
    ranged = Outer(inner=Inner(ranges={"goal": [0.0, 1.0]}))
    assert ranged.flat() == Outer().flat() | {"inner.ranges.goal": [0.0, 1.0]}
