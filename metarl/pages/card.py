"""The card of a policy: a README with front matter as model hubs read it, for whoever gets the policy without us.

The front matter follows https://huggingface.co/docs/hub/model-cards: library, licence, tags, and results as a
`model-index`. Everything in a card is told by the run itself, so that the same run has the same card.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import yaml

from envs.core.environment import Environment, MujocoEnvironment
from envs.core.tasks import Categories, Range
from envs.entry import ID
from metarl.assembly.opened import Run
from metarl.config.composition import compose
from metarl.evaluation.curve import table
from metarl.pages.evaluations import Evaluation, read, read_evaluations
from metarl.pages.subject import Subject, repeat
from metarl.pages.templating import templates
from metarl.run_folder.pretrained import is_shipped

TAGS = ("reinforcement-learning", "meta-reinforcement-learning", "meta-learning", "robotics")
ABSENT = "YOUR_ENVIRONMENT-v0"  # where Gymnasium has no name for an environment
LICENCE = "apache-2.0"  # of the policies that come with the package


def model_card(
    run: Run,
    name: str,
    *,
    evaluations: Mapping[str, Mapping[str, Any]] | None = None,
    commands: Sequence[str] | None = None,
    licence: str | None = None,
    usage: str | None = None,
    note: str | None = None,
) -> str:
    """The card of a run's policy, as Markdown.

    Args:
        name: of the policy.
        evaluations: the contents of its evaluations by split; None: those of the run.
        commands: that made it; None: as the run's settings say.
        licence: by which others may use it, as hubs name it; None: the card says nothing of one.
        usage: a fenced block of code that uses it; None: `metarl.load(name)` and `predict`.
        note: a paragraph more on what it is, such as what it was adapted to.

    Raises:
        RunFolderError: if an evaluation is unreadable.
    """
    env = run.environment(1, 0, 1)
    if evaluations is None:
        measured = read_evaluations(run)
    else:
        measured = {split: read(split, dict(content), run.folder.path) for split, content in evaluations.items()}
    config = run.folder.read_config()
    content = {
        "name": name,
        "front": yaml.safe_dump(front_matter(run, name, env, measured, licence), sort_keys=False, width=1000).strip(),
        "env": run.settings.env.entry or run.settings.env.name,
        "algorithm": run.settings.algo.label(),
        "policy": run.settings.agent.entry or run.settings.agent.name,
        "parameters": f"{sum(parameter.numel() for parameter in run.policy.parameters()):,}",
        "feedback": run.feedback,
        "fed_the_reward": run.fed_the_reward,
        "criterion": env.success_criterion,
        "sizes": (env.observation_size, env.action_size),
        "rate": f"{1.0 / env.step_period:g}",
        "horizon": env.horizon,
        "trial": run.settings.algo.trial_episodes,
        "steps": run.gradient_steps,
        "note": note,
        "usage": usage,
        "evaluations": [(split, _markdown(table(each.curve)), each) for split, each in measured.items()],
        "tasks": _markdown([("parameter", "trained on", "beyond (`ood`)", "unit"), *task_rows(env)]),
        "iterations": run.iteration,
        "env_steps": f"{run.env_steps:,}",
        "versions": ", ".join(f"{package} {version}" for package, version in (config.get("versions") or {}).items()),
        "commit": config.get("git_commit"),
        "commands": list(commands) if commands is not None else repeat(Subject(run, name, [], {})),
        "licence": licence,
    }
    return templates().get_template("card.md").render(content)


def exported_card(run: Run, file: Path) -> str:
    """The card of a policy that was written as an ONNX file, which takes no gradient steps.

    Args:
        file: the ONNX file.

    Raises:
        RunFolderError: if an evaluation is unreadable.
    """
    # What was measured of another checkpoint is not true of this one.
    measured = {
        split: _before_steps(evaluation.content)
        for split, evaluation in read_evaluations(run).items()
        if evaluation.content.get("iteration") == run.iteration
    }
    notes = [f"It was adapted on {run.kept.told()}, from `{run.kept.origin}`."] if run.kept else []
    if run.kept and run.kept.memory is not None:
        notes.append(f"What it remembers is not in `{file.name}`: there its memory begins new.")
    if run.gradient_steps:
        notes.append(f"`{file.name}` itself takes no gradient steps: what is measured here is before the first one.")
    command = shlex.join(["python", "experiments/deploy/run_onnx.py", file.name, *_environment(run)])
    return model_card(
        run,
        file.stem,
        evaluations=measured,
        licence=LICENCE if is_shipped(run.folder.path) else None,
        usage=f"```sh\n# from a clone of metarl; the policy itself needs numpy and onnxruntime alone\n{command}\n```",
        note=" ".join(notes) or None,
    )


def _before_steps(content: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation without what gradient steps did."""
    curve = [entry for entry in content["curve"] if not entry.get("step")]
    rows = [
        {name: value[: len(curve)] if isinstance(value, list) else value for name, value in row.items()}
        for row in content["per_task"]
    ]
    return {**content, "curve": curve, "per_task": rows}


def _environment(run: Run) -> list[str]:
    """The words by which `run_onnx.py` makes the environment of a run, or what stands for them."""
    env = run.settings.env
    if env.entry:
        kind, _, name = env.entry.partition(":")
        return [name if kind == ID else ABSENT]
    ours = (spec for spec in gymnasium.registry.values() if spec.id.startswith("metarl/"))
    known = next((f"envs:{spec.id}" for spec in ours if spec.kwargs.get("name") == env.name), None)
    if known is None:
        return [ABSENT]
    usual = compose([f"env={env.name}"]).env.options()
    options = {name: value for name, value in env.options().items() if value != usual.get(name)}
    if "tasks" in options:
        options["tasks_override"] = options.pop("tasks")
    return [known, *(["--options", json.dumps(options)] if options else [])]


def front_matter(
    run: Run, name: str, env: Environment, measured: Mapping[str, Evaluation], licence: str | None
) -> dict[str, Any]:
    """What a hub reads of a card."""
    tags = [*TAGS, *(["mujoco"] if isinstance(env, MujocoEnvironment) else []), env.name, run.settings.algo.name]
    results = [
        {
            "task": {"type": "reinforcement-learning", "name": "adapting to a hidden task"},
            "dataset": {"name": f"{env.name}, {split}", "type": env.name, "split": split},
            "metrics": list(_metrics(evaluation)),
        }
        for split, evaluation in measured.items()
    ]
    return {
        "library_name": "metarl",
        **({"license": licence} if licence else {}),
        "pipeline_tag": "reinforcement-learning",
        "tags": tags,
        "model-index": [{"name": name, "results": results}],
    }


def _metrics(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Success and return at the end of the adaptation; the interval stands in the name."""
    last = evaluation.curve[-1]
    seen = f"after {last['episodes']} episodes of the task"
    for kind, name in (("success_rate", "success"), ("mean_reward", "return")):
        low, high = last[name]["ci95"]
        yield {
            "type": kind,
            "name": f"{name} {seen}, 95% interval over tasks [{low:.3f}, {high:.3f}]",
            "value": round(last[name]["mean"], 4),
        }


def task_rows(env: Environment) -> list[tuple[str, ...]]:
    """What is hidden of a task: each parameter, its values in training and those beyond, and its unit."""
    return [
        (name, *(_categories(parameter) if isinstance(parameter, Categories) else _ranges(parameter)))
        for name, parameter in env.distribution.parameters.items()
    ]


def _categories(parameter: Categories) -> tuple[str, ...]:
    return ", ".join(parameter.values), ", ".join(parameter.ood), ""


def _ranges(parameter: Range) -> tuple[str, ...]:
    beyond = "; ".join(_span(low, high) for low, high in parameter.ood)
    return _span(parameter.low, parameter.high), beyond, "" if parameter.unit == "1" else parameter.unit


def _span(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    """Bounds in words; of several numbers one after the other, or once if they are alike."""
    pairs = [f"{a:.4g}" if a == b else f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)]
    if len(pairs) > 1 and len(set(pairs)) == 1:
        return f"{pairs[0]} ({len(pairs)} numbers)"
    return ", ".join(pairs) if len(pairs) <= 4 else f"{', '.join(pairs[:3])}, ... ({len(pairs)} numbers)"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first of which is the header, as a Markdown table."""
    header, *others = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([header, f"|{'---|' * len(rows[0])}", *others])
