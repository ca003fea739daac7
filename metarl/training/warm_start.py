"""Beginning from the policy of an existing run: `algo.warm_start.run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.token import TokenLayout
from metarl.assembly.trust import stored_settings
from metarl.config.parsing import show
from metarl.config.settings import TrainSettings
from metarl.errors import CheckpointError, ConfigError, RunFolderError
from metarl.run_folder import ADAPTED, Checkpoint, RunFolder
from metarl.run_folder.pretrained import locate
from metarl.training.trainer import Trainer


def from_another_run(trainer: Trainer, settings: TrainSettings) -> TrainSettings:
    """Give a fresh trainer the policy of the run that its settings name, if they name one.

    Returns:
        The settings; a run that they name has its iteration, environment steps and seconds of training beside it as
        `origin`, so that the new run's folder tells the whole story and never needs the old one again.

    Raises:
        ConfigError: if there is no such run, or its policy does not fit.
    """
    warm = getattr(settings.algo, "warm_start", None)
    if warm is None or not warm.run:
        return settings
    key = f"algo.warm_start.run={warm.run}"
    try:
        folder = RunFolder.open(locate(warm.run))
        trained, checkpoint = stored_settings(folder, settings.trust), folder.load_checkpoint()
    except (RunFolderError, CheckpointError) as error:
        raise ConfigError(f"{key}: {error}") from None
    if difference := _difference(trained.agent.plain(), settings.agent.plain()) or _other_sizes(checkpoint, trainer):
        raise ConfigError(f"{key}: {difference}")
    if ADAPTED in checkpoint.state:
        raise ConfigError(f"{key}: is adapted to one task; begin from the run that it came from")
    origin = {name: checkpoint.state[name] for name in ("iteration", "env_steps", "seconds")}
    origin = {"env": trained.env.name, "algo": trained.algo.name, "seed": trained.seed} | origin
    try:
        trainer.take_policy(checkpoint.tensors, origin["env_steps"])
    except CheckpointError as error:
        raise ConfigError(f"{key}: {error}") from None
    algo = settings.algo.model_copy(update={"warm_start": warm.model_copy(update={"origin": origin})})
    return settings.model_copy(update={"algo": algo})


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first of the agent's settings in which a run differs, in words."""
    for name in sorted({*theirs, *ours}, key=lambda name: name != "name"):
        if theirs.get(name) != ours.get(name):
            here, there = show(ours.get(name)), show(theirs.get(name))
            return f"its policy has agent.{name}={there}, not {here}; give the agent the same settings"
    return None


def _other_sizes(checkpoint: Checkpoint, trainer: Trainer) -> str | None:
    """How the observations and actions of a checkpoint's policy differ from the trainer's, in words."""
    tokens, actions = (checkpoint.tensors[f"policy.{name}"].shape[0] for name in ("normaliser.mean", "log_std"))
    ours = trainer.policy.layout
    theirs = TokenLayout.of_size(tokens, actions, ours.privileged_size)
    if theirs == ours:
        return None
    sizes = f"{theirs.observation_size} numbers of observation and {theirs.action_size} of action"
    return f"its policy is for {sizes}, this environment has {ours.observation_size} and {ours.action_size}"
