"""Every setting of training, evaluation, rendering and reproduction, stated once. Nothing here imports torch.

A configuration is parsed into these objects at the border (`metarl.config.parsing`); nothing behind it reads a
dictionary. A run is a list of phases: algorithms, one after the other, on the same policy.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

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
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Folder = Annotated[Text, said("a folder")]
RunPath = Annotated[Text, said("the folder of a trained run, such as runs/reach-maml-0")]
RunPaths = Annotated[
    list[Text],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    said("the folder of a trained run, such as runs/reach-maml-0, or several as in [runs/a,runs/b]"),
]
Split = Literal["test", "ood", "train", "validation"]
WarmAlgorithm = Annotated[str, Field(pattern="^(in_context|multitask)$"), said("one of in_context, multitask")]
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
        {"entry", "horizon", "goal_visible", "object_visible", "closing", "feedback"}
        | {"benchmark", "task", "benchmark_seed"}
    )
    horizon: Count | None = setting(None, "control steps of an episode")
    goal_visible: bool | None = setting(None, "an oracle: the goal is part of the observation")
    object_visible: bool | None = setting(None, "an oracle: shape, extents, mass and friction are observed")
    closing: Weight | None = setting(None, "s/m, reward of speed towards the goal; 0: the published reward")
    feedback: Literal["reward", "sparse", "none"] | None = setting(
        None,
        "what the policy is fed of its success; reward: what training maximises, sparse: whether it succeeds now, and "
        "collisions, none: nothing",
    )
    benchmark: Literal["ML1", "ML10"] | None = setting(None, "of Meta-World: one task, or ten and five others to test")
    task: Text | None = setting(None, "of Meta-World's ML1, such as pick-place; null: reach")
    benchmark_seed: Seed | None = setting(None, "of Meta-World's fifty variations of each task in each split")
    tasks: Ranges = setting({}, "other training ranges, such as env.tasks.payload_mass=[0,2]")


# Algorithms


class InnerSteps(Settings):
    """Gradient steps on a task's own episodes."""

    steps: Steps = setting(1, "inner gradient steps")
    rate: Positive = setting(0.001, "of the inner steps; where it is learned, the start")
    later_rate: Positive = setting(1.0, "factor on the rates of every step after the first")
    normalize_advantage: bool = setting(
        True, "in each task; false: in units of the spread of all returns, so that far from its goal a step is longer"
    )
    adapt: Literal["all", "head", "body"] = setting(
        "all", "parameters that adapt; head: the action head alone, as in ANIL (arXiv 1909.09157), body: all but that"
    )
    max_grad_norm: Positive | None = setting(None, "limit of the inner gradient's norm", formerly="clip")


class InnerLoop(InnerSteps):
    """Inner steps beside an outer gradient."""

    workers: Threads = setting(
        0, "threads of each process that share an update on a CPU; 0: one per core where the run begins, or its share"
    )


class MetaInnerLoop(InnerLoop):
    """Inner steps that an outer gradient goes through."""

    learn_rates: bool = setting(True, "learn the inner rates, one per tensor")
    rate_multiplier: Weight = setting(20.0, "learning rate of the inner rates' logarithms, relative to the policy's")
    first_order: bool = setting(False, "treat the inner gradient as a constant (FOMAML)")
    unadapted_weight: Weight = setting(
        1.0, "of the same loss on the unadapted policy, which keeps it from drifting to pure exploration"
    )
    chunk: Natural = setting(0, "tasks per vectorised call; 0: as the device likes")
    compile: bool = setting(False, "compile the meta-gradient")


class PPO(Settings):
    """Proximal policy optimisation over the meta-batch."""

    learning_rate: Positive = setting(1e-3, "of Adam")
    half_life: Positive | None = setting(None, "iterations in which the learning rate halves; null: it stays")
    n_epochs: Count = setting(4, "passes over the data of an iteration", formerly="epochs")
    minibatches: Count = setting(4, "minibatches per pass")
    clip_range: Positive = setting(0.2, "of the probability ratio", formerly="clip")
    value_coef: Weight = setting(0.5, "weight of the critic's loss", formerly="value")
    entropy_coef: Weight = setting(0.0, "weight of the entropy", formerly="entropy")
    task_coef: Weight = setting(0.1, "weight of the error of an estimate of the task (agent.estimates_task)")
    max_grad_norm: Positive = setting(0.5, "limit of the gradient's norm", formerly="gradient_clip")


class Interpolation(Settings):
    """Reptile's outer loop."""

    meta_step_size: Share = setting(
        0.25, "how far towards the mean of the adapted parameters", formerly="interpolation"
    )
    value_coef: Weight = setting(0.5, "weight of the critic's loss in the inner steps", formerly="value")


Algorithm = TypeVar("Algorithm", bound="AlgorithmSettings")


class AlgorithmSettings(Chosen):
    """What every algorithm has; one of your own defines a subclass and names it as its `Settings`.

    Its fields are `self.settings` of the learner; see `agents.settings.PolicySettings` for how they are written.
    """

    tasks: Count = setting(25, "of a meta-batch, for all processes together")
    episodes: Count = setting(8, "of each task, per rollout")
    trial_episodes: Count = setting(1, "episodes that share one context")
    curriculum: Natural = setting(
        0, "iterations in which tasks spread from the middle of the ranges of goals and the like to all; 0: at once all"
    )
    gamma: Share = setting(0.95, "discount", formerly="discount")
    gae_lambda: Annotated[float, Field(ge=0.0, le=1.0)] = setting(
        0.95, "of the generalised advantage", formerly="trace"
    )
    baseline: Literal["critic", "linear"] = setting("critic", "of the advantages; linear is fitted to each task")
    inner: SerializeAsAny[InnerLoop] = InnerLoop()
    outer: SerializeAsAny[PPO] = PPO()

    def phases(self) -> list[Phase]:
        """What a run with these settings does, in order."""
        return [Phase(self, None)]

    def label(self) -> str:
        """What trained the policy, as tables say it: `in_context+maml` if MAML began with in-context training."""
        return self.name

    def with_workers(self: Algorithm, count: int) -> Algorithm:
        """The settings with `count` workers where `workers` is 0."""
        if getattr(self.inner, "workers", None) != 0:
            return self
        return self.model_copy(update={"inner": self.inner.model_copy(update={"workers": count})})

    def longest_trial(self) -> int:
        """The episodes that the policy may have to remember."""
        return max(phase.settings.trial_episodes for phase in self.phases())


class Phase(NamedTuple):
    """An algorithm, up to an iteration of the run (None: to the end)."""

    settings: AlgorithmSettings
    until: int | None


class InContextSettings(AlgorithmSettings):
    """PPO on the policy itself, whose context adapts (RL^2, Duan et al. 2016)."""

    name: Text = "in_context"
    tasks: Count = setting(200, "of a meta-batch, for all processes together")
    episodes: Count = setting(1, "of each task, per rollout")
    inner: InnerLoop = InnerLoop(steps=0)
    outer: PPO = PPO()


class MultitaskSettings(InContextSettings):
    """PPO on a policy without memory, adapted by fine-tuning."""

    name: Text = "multitask"
    inner: InnerLoop = InnerLoop()


class WarmSettings(MultitaskSettings):
    """Those of the algorithm of a warm start."""

    name: WarmAlgorithm = "in_context"


class WarmStart(Settings):
    """In-context training that a gradient algorithm begins with, or another run's policy in its place."""

    OMITTED: ClassVar[frozenset[str]] = frozenset({"origin"})
    iterations: Natural = setting(0, "train so many in context first")
    run: Folder | None = setting(
        None, "or begin from the policy of this run; its environment steps then count as this run's"
    )
    settings: WarmSettings = WarmSettings()
    origin: dict[str, Any] | None = setting(None, "what is known of that run, noted by training")


Warm = TypeVar("Warm", bound="WarmStarted")


class WarmStarted(AlgorithmSettings):
    """An algorithm that may begin with in-context training."""

    warm_start: WarmStart = WarmStart()

    def phases(self) -> list[Phase]:
        warm = self.warm_start
        return ([Phase(warm.settings, warm.iterations)] if warm.iterations else []) + super().phases()

    def label(self) -> str:
        warm = self.warm_start
        if not (warm.iterations or warm.run):
            return self.name
        return f"{(warm.origin or {}).get('algo', warm.settings.name)}+{self.name}"

    def with_workers(self: Warm, count: int) -> Warm:
        warm = self.warm_start.model_copy(update={"settings": self.warm_start.settings.with_workers(count)})
        return super().with_workers(count).model_copy(update={"warm_start": warm})

    def longest_trial(self) -> int:
        before = self.warm_start.settings.trial_episodes if self.warm_start.run else 1
        return max(before, super().longest_trial())


class MAMLSettings(WarmStarted):
    """Second-order MAML (Finn et al. 2017) with learned inner rates and a PPO outer loss."""

    name: Text = "maml"
    inner: MetaInnerLoop = MetaInnerLoop(rate=0.003)
    outer: PPO = PPO(learning_rate=3e-4, n_epochs=3, minibatches=5)


class FOMAMLSettings(MAMLSettings):
    """MAML without second derivatives."""

    name: Text = "fomaml"
    inner: MetaInnerLoop = MetaInnerLoop(rate=0.003, first_order=True)


class ReptileSettings(WarmStarted):
    """Reptile (Nichol et al. 2018): towards the parameters that inner steps on fresh episodes lead to."""

    name: Text = "reptile"
    # Nothing is differentiated but the inner steps themselves, which no threads share.
    inner: InnerSteps = InnerSteps(steps=3, rate=0.01, max_grad_norm=1.0)  # pyright: ignore[reportIncompatibleVariableOverride]
    # Not a PPO: nothing is stepped, the initialisation moves.
    outer: Interpolation = Interpolation()  # pyright: ignore[reportIncompatibleVariableOverride]


ALGORITHMS: dict[str, type[AlgorithmSettings]] = {
    "maml": MAMLSettings,
    "fomaml": FOMAMLSettings,
    "reptile": ReptileSettings,
    "in_context": InContextSettings,
    "multitask": MultitaskSettings,
}

# Commands


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
        1, "more than one would spin on the cores that the physics needs"
    )
    logger: Literal["tensorboard", "trackio", "wandb"] = setting(
        "tensorboard",
        "what gets the metrics beside metrics.csv; the other two are extras, and send nothing away unless "
        "TRACKIO_SPACE_ID=... or WANDB_MODE=online is in the environment",
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
    deterministic: bool = setting(False, "act by the mean action")


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
