"""The settings of the algorithms. A run is a list of phases: algorithms, one after the other, on the same policy."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import Field, SerializeAsAny

from agents.settings import (
    Chosen,
    Count,
    Natural,
    Passes,
    Positive,
    Settings,
    Steps,
    Text,
    Threads,
    Weight,
    said,
    setting,
)

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Folder = Annotated[Text, said("a folder")]
WarmAlgorithm = Annotated[str, Field(pattern="^(in_context|multitask)$"), said("one of in_context, multitask")]


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

    steps: Passes = setting(1, "inner gradient steps")
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
    n_epochs: Passes = setting(4, "passes over the data of an iteration", formerly="epochs")
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
    replay: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(
        0.0, "share of the tasks that are drawn again from those in which the policy failed last"
    )
    observation_offset: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(
        0.0,
        "what each observed number is off by in a sequence of training, as a share of its spread: so that a few tasks "
        "are not told apart by what they look like",
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
