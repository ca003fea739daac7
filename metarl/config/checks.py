"""Choices that do not go together, or of which one would have no effect: they are refused."""

from __future__ import annotations

from metarl.config.algorithms import InContextSettings, MultitaskSettings, ReptileSettings, WarmStarted
from metarl.config.settings import TrainSettings
from metarl.errors import ConfigError


def check_choices(settings: TrainSettings) -> None:
    """Whether an algorithm, its policy and what that is fed go together.

    Raises:
        ConfigError: if they do not.
    """
    _check_memory(settings)
    _check_feedback(settings)
    _check_critic(settings)
    _check_baseline(settings)


def _check_memory(settings: TrainSettings) -> None:
    """In-context learning needs a policy that remembers, and multi-task training one that does not.

    Raises:
        ConfigError: if it is the other way round.
    """
    algo, agent = (chosen.entry or chosen.name for chosen in (settings.algo, settings.agent))
    alone = isinstance(settings.algo, MultitaskSettings)
    episodes = settings.algo.longest_trial()
    if episodes > 1 and getattr(settings.agent, "context", None) == "episode":
        remedy = "choose agent.context=trial, or algo.trial_episodes=1"
        raise ConfigError(f"agent.context=episode: the {episodes} episodes of a trial share one memory; {remedy}")
    if isinstance(settings.algo, InContextSettings) and not alone and not settings.agent.remembers():
        remedy = "choose agent=transformer agent.context=auto, or algo=multitask"
        raise ConfigError(f"algo={algo}: needs a policy that remembers, which agent={agent} here does not; {remedy}")
    if alone and settings.agent.remembers():
        memory = getattr(settings.agent, "context", "none")
        if memory == "none":  # it cannot be switched off
            given, other = f"agent={agent}", "agent=mlp"
        else:
            given, other = f"agent.context={memory}", "agent.context=none"
        remedy = f"choose {other}, or algo=in_context"
        raise ConfigError(f"{given}: algo={algo} is for a policy that does not remember; {remedy}")


def _check_feedback(settings: TrainSettings) -> None:
    """Inner steps learn from what the robot senses.

    Raises:
        ConfigError: if that is nothing.
    """
    each = [phase.settings for phase in settings.phases()]
    learns = any(one.inner.steps or isinstance(one, ReptileSettings) for one in each)  # Reptile's is one step more
    if settings.env.feedback == "none" and learns:
        algo = settings.algo.entry or settings.algo.name
        remedy = "; set algo.inner.steps=0" if isinstance(settings.algo, InContextSettings) else ""
        raise ConfigError(f"env.feedback=none: the inner steps of algo={algo} have nothing to learn from{remedy}")


def _check_critic(settings: TrainSettings) -> None:
    """What is told about the task reaches something that learns.

    Raises:
        ConfigError: if nothing would use it.
    """
    phases = [phase.settings for phase in settings.phases()]
    begun = getattr(getattr(settings.algo, "warm_start", None), "run", None)
    if getattr(settings.agent, "critic_sees_task", False) and all(phase.baseline == "linear" for phase in phases):
        raise ConfigError(
            "agent.critic_sees_task=true: algo.baseline=linear asks no critic; choose algo.baseline=critic"
        )
    trained = begun or not all(isinstance(phase, WarmStarted) for phase in phases)
    if getattr(settings.agent, "estimates_task", False) and not trained:
        algo = settings.algo.entry or settings.algo.name
        raise ConfigError(
            f"agent.estimates_task=true: algo={algo} trains no estimate; begin with algo.warm_start.iterations, or"
            " choose algo=in_context"
        )


def _check_baseline(settings: TrainSettings) -> None:
    """A linear baseline has more to fit than it can.

    Raises:
        ConfigError: if it has one episode of a task.
    """
    phases = [phase.settings for phase in settings.phases()]
    if any(phase.baseline == "linear" and phase.episodes * phase.trial_episodes == 1 for phase in phases):
        remedy = "choose algo.episodes=10, or algo.baseline=critic"
        raise ConfigError(f"algo.baseline=linear: fits the returns of a task's only episode away; {remedy}")
