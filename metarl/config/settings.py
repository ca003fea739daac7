"""Every setting of training, evaluation, rendering and reproduction, stated once; those of the algorithms are in
`metarl.config.algorithms`. Nothing in either imports torch.

A configuration is parsed into these objects at the border (`metarl.config.parsing`); nothing behind it reads a
dictionary.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SerializeAsAny

from agents.settings import (
    WHOLE,
    Chosen,
    Count,
    Natural,
    PolicySettings,
    Positive,
    Settings,
    Steps,
    Text,
    Threads,
    Weight,
    said,
    setting,
)
from metarl.config.algorithms import AlgorithmSettings, Folder, Phase

LISTED = 100_000  # tasks of a published list, which is drawn whole
# What several commands say of a setting.
SPLIT = "a fixed list of tasks: test, ood and validation (to choose by) hold out theirs, train does not"
SEED = "of everything that is drawn"
DEVICES = "auto, cpu or an accelerator that torch has, such as cuda, cuda:1, mps or xpu"
DEVICE = f"{DEVICES}; of policy and gradients, the physics runs on the CPU"
THREADS = "of the physics, in each process; 0: all cores, or its share of them"
TRUST = "modules outside of metarl that a run may name, such as trust=my_robots: their code will run"

Listed = Annotated[int, Field(ge=1, le=LISTED), WHOLE]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), WHOLE]
Pixels = Annotated[int, Field(ge=16, le=4096, multiple_of=2), WHOLE]
RunPath = Annotated[Text, said("the folder of a trained run, such as runs/reach-maml-0")]
RunPaths = Annotated[
    list[Text],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    said("the folder of a trained run, such as runs/reach-maml-0, or several as in [runs/a,runs/b]"),
]
Split = Literal["test", "ood", "train", "validation"]
Modules = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    said("a module without dots, such as trust=my_robots, or a list of them"),
    Field(exclude=True),  # never stored: it is not for a run to say
]
ShownSteps = Annotated[
    list[Steps],
    Field(min_length=1),
    BeforeValidator(lambda value: [0, value] if isinstance(value, int) else value),
    said("a number from 0 to 1000, or a list of them such as [0,1,3]"),
]
Ranges = Annotated[dict[str, Any], said("a group of ranges, such as env.tasks.goal=[0,1]")]


def _device(value: str) -> str:
    if not re.fullmatch(r"[a-z]+(:\d+)?", value):
        raise ValueError
    return value


Device = Annotated[str, AfterValidator(_device), said(DEVICES)]


class EnvironmentSettings(Chosen):
    """Which task family, and its options; one of your own may have others, which reach its `__init__`."""

    model_config = ConfigDict(extra="allow")
    OMITTED: ClassVar[frozenset[str]] = frozenset(
        # the family's own
        {"entry", "horizon", "goal_visible", "object_visible", "closing", "feedback", "action_repeat"}
        | {"benchmark", "task", "benchmark_seed", "bonus", "recombine"}
    )
    horizon: Count | None = setting(None, "control steps of an episode")
    goal_visible: bool | None = setting(None, "an oracle: the goal is part of the observation")
    object_visible: bool | None = setting(None, "an oracle: shape, extents, mass and friction are observed")
    closing: Weight | None = setting(None, "s/m, reward of speed towards the goal; 0: the published reward")
    feedback: Literal["reward", "log_reward", "sparse", "none"] | None = setting(
        None,
        "what the policy is fed of its success; reward: what training maximises, log_reward: the same on a scale that "
        "tells near from very near (Meta-World), sparse: whether it succeeds now, and collisions, none: nothing",
    )
    action_repeat: Count | None = setting(None, "control steps for which each action is held; null: 1")
    benchmark: Literal["ML1", "ML10"] | None = setting(None, "of Meta-World: one task, or ten and five others to test")
    task: Text | None = setting(None, "of Meta-World's ML1, such as pick-place; null: reach")
    benchmark_seed: Seed | None = setting(None, "of Meta-World's fifty variations of each task in each split")
    bonus: Weight | None = setting(None, "of Meta-World: reward for being near to success, which no policy is fed")
    recombine: bool | None = setting(None, "of Meta-World: train on placements and goals of different variations")
    tasks: Ranges = setting({}, "other training ranges, such as env.tasks.payload_mass=[0,2]")


class Budget(Settings):
    """When a run ends: exactly one limit."""

    iterations: Count | None = setting(None, "meta-iterations; of iterations, env_steps and minutes exactly one")
    env_steps: Count | None = setting(None, "environment steps")
    minutes: Positive | None = setting(None, "of training")

    def fraction(self, iterations: int, env_steps: int, seconds: float) -> float:
        """How much of the budget is used: 1.0 or more when the run is over."""
        spent = {"iterations": iterations, "env_steps": env_steps, "minutes": seconds / 60.0}
        return max(spent[name] / limit for name, limit in self if limit is not None)


class Checkpoints(Settings):
    """Which states of a run are kept."""

    every: Count = setting(25, "iterations")
    keep: Count = setting(2, "of the latest; the best is kept besides")


class EvaluationSettings(Settings):
    """The evaluation that training ends with."""

    tasks: Listed = setting(100, "of the split")
    episodes_per_step: Count = setting(10, "of each task, per gradient step")
    steps: Steps | None = setting(None, "inner gradient steps; null: as many as in training")
    split: Split = setting("test", SPLIT)
    deterministic: bool = setting(False, "act by the mean action")


class TrainSettings(Settings):
    """Meta-train a policy, evaluate it on held-out tasks, and leave a run folder."""

    agent: SerializeAsAny[PolicySettings]
    env: EnvironmentSettings
    algo: SerializeAsAny[AlgorithmSettings]
    seed: Seed = setting(0, SEED)
    device: Device = setting("auto", DEVICE)
    threads: Threads = setting(0, THREADS)
    torch_threads: Annotated[int, Field(ge=1, le=1024), WHOLE] = setting(
        1, "of each process; more than one would spin on the cores that the physics needs"
    )
    logger: Literal["tensorboard", "trackio", "wandb"] = setting(
        "tensorboard",
        "what gets the metrics beside metrics.csv; the other two are extras, and send nothing away unless "
        "TRACKIO_SPACE_ID=... or WANDB_MODE=online is in the environment",
    )
    report: Literal["films", "page", "none"] = setting(
        "films",
        "what training ends with: a page with films of three tasks, which take some 10 s, one without, or none; "
        "metarl.report writes it at any time",
    )
    run_dir: Folder | None = setting(
        None, "a new folder; null: runs/<env>-<algo>-<seed>, and if that is taken ...-2, ...-3"
    )
    resume: Folder | None = setting(None, "a run to continue; only budget, device and trust may be given beside it")
    trust: Modules = setting([], TRUST)
    budget: Budget = Budget(iterations=400)
    checkpoint: Checkpoints = Checkpoints()
    evaluate: EvaluationSettings = EvaluationSettings()

    def phases(self) -> list[Phase]:
        """What the run does, in order."""
        return self.algo.phases()


class ResumeSettings(Settings):
    """Continue a run; what is None stays as the run has it."""

    resume: Folder
    budget: Budget = setting(None, "its limit")
    device: Device = setting(None, DEVICE)
    trust: Modules = []


class OnARun(Settings):
    """What is done with a trained run."""

    run: RunPath = setting(None, "a run folder, or pretrained/<name>: a policy that comes with the package")
    split: Split = setting("test", SPLIT)
    checkpoint: Literal["last", "best"] = setting("last", "or best: as far as training itself could tell")
    seed: Seed = setting(0, SEED)
    device: Device = setting("auto", DEVICE)
    trust: Modules = setting([], TRUST)


class EvaluateSettings(OnARun):
    """Measure how a trained run adapts to held-out tasks; writes evaluation/<split>.json into its folder."""

    out: Annotated[Text, said("a file or folder name")] | None = setting(
        None, "a .json file, or a folder for <split>.json; null: the run's evaluation folder"
    )
    tasks: Listed | None = setting(None, "of the split; null: as the run's configuration says")
    episodes: Count | None = setting(None, "of each task, per gradient step; null: as the run's configuration says")
    steps: Steps | None = setting(None, "inner gradient steps; null: as the run's configuration says")
    trial_episodes: Count | None = setting(
        None, "of a trial, such as 10; null: as in training. What goes beyond takes the last one's place in memory"
    )
    threads: Threads = setting(0, THREADS)
    deterministic: bool | None = setting(None, "act by the mean action; null: as the run's configuration says")


class RenderSettings(OnARun):
    """Film a trained run on one task: the episodes of its trial, and before and after gradient steps, side by side."""

    task: Natural | Annotated[Literal["most_improved"], said("most_improved")] = setting(
        0, "its number in the split's list; most_improved: of those in the split's evaluation, the one that gained most"
    )
    out: Annotated[Text, said("a file name")] | None = setting(
        None,
        ".mp4, .gif, .png of the last moment, or without a suffix a folder of PNGs; null: in the run's videos folder "
        "(of pretrained/x: pretrained-x/videos)",
    )
    steps: ShownSteps | None = setting(
        None, "inner gradient steps to show, such as [0,1,3]; n: [0,n]; null: 0 and as many as an evaluation takes"
    )
    width: Pixels = setting(480, "pixels, even; more than two panels beside each other are smaller")
    height: Pixels = setting(360, "pixels, even, likewise")
    fps: Annotated[float, Field(gt=0.0, le=240.0)] | None = setting(
        None, "pictures per second; null: as fast as the task runs"
    )


class ReportSettings(OnARun):
    """Write a page about one trained run, or about several beside each other; it is one file that loads nothing."""

    run: RunPaths = setting(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, "a run folder or pretrained/<name>, or several of them: [runs/a,runs/b]"
    )
    out: Annotated[Text, said("a file or folder name")] | None = setting(
        None, "an .html file, or a folder for report.html; null: the run's folder, of several runs the working folder"
    )
    films: bool = setting(True, "of the best, the median and the worst task; false: a page within seconds")
    width: Pixels = setting(320, "of a panel of a film, pixels, even")
    height: Pixels = setting(240, "of a panel of a film, pixels, even")


class ReproduceSettings(Settings):
    """See again why a run skipped its updates: compute the update in a dump anew, and name what is not finite."""

    dump: Annotated[Text, said("the folder of a dump, such as runs/reach-maml-0/dumps/iteration-000020")] = setting(
        None, "a folder in the dumps folder of a run"
    )
    device: Device = setting("cpu", DEVICE)
    trust: Modules = setting([], TRUST)
