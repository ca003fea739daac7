"""What a page tells of its robots in words: where they are, and the episodes that they have played."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from metarl.live.session import Played, Session

# By what they are called, the run of a lone one, or "A: run" and "B: run". The first one leads.
Robots = Mapping[str, Session]
SHOWN = 4  # rows of the table, for the latest episodes


def describe(robots: Robots) -> str:
    """What the robots are at and what they have done, as Markdown."""
    lead = next(iter(robots.values()))
    beyond = f": {', '.join(lead.beyond)} beyond what was trained on" if lead.beyond else ""
    lines = [f"{lead.split} task{beyond}"]
    for name, session in robots.items():
        period, (episode, trial) = session.env.step_period, session.trial
        lines += [
            f"**{name}**",
            f"episode {episode} in its memory (trained with {trial}), "
            f"{session.elapsed * period:.1f} s of {session.env.horizon * period:.1f} s",
            f"feedback {session.feedback:.3g}, {'**success**' if session.success else 'no success'}",
            f"on this task: {_count(len(session.episodes), 'episode')}, "
            f"{_count(session.gradient_steps, 'gradient step')}",
        ]
    return "  \n".join(lines) + "\n" + "\n".join(_table(robots))


def _table(robots: Robots) -> list[str]:
    """The latest episodes, one row for each robot."""
    several = len(robots) > 1
    tags = [tag(name) for name in robots]
    rounds = enumerate(zip_longest(*(session.episodes for session in robots.values())), 1)
    rows = [
        f"| {number} |{f' {each} |' * several} {played.trial} | {played.gradient_steps} | {played.feedback:.3g} "
        f"| {_outcome(played)} |"
        for number, row in rounds
        for each, played in zip(tags, row, strict=True)
        if played is not None
    ]
    head = ["episode", *["policy"] * several, "in memory", "after steps", "feedback", "success"]
    return ["", f"| {' | '.join(head)} |", f"|{'-|' * len(head)}", *rows[-SHOWN:]] if rows else []


def tag(name: str) -> str:
    """What stands for one of several robots where there is little room."""
    return name.partition(":")[0]


def _outcome(played: Played) -> str:
    return "physics failed" if played.failed else "yes" if played.success else "no"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
