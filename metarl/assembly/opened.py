"""A trained run, opened for use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.policy import Policy
from envs.core.environment import Environment
from envs.core.tasks import Tasks
from envs.errors import TaskError
from metarl.algorithms.adaptation import Parameters, part
from metarl.algorithms.learner import Learner
from metarl.assembly.build import build_environment, build_learners, build_policy, load_policy
from metarl.assembly.device import enough_memory, fitting, gpu_memory, resolve_device
from metarl.assembly.kept import Kept, from_checkpoint, to_checkpoint
from metarl.assembly.trust import check_factory, stored_settings
from metarl.config.memory import check_rollout
from metarl.config.settings import LISTED, TrainSettings
from metarl.errors import CheckpointError, ConfigError
from metarl.run_folder import SLIM, Checkpoint, RunFolder, keep_adapted
from metarl.run_folder.pretrained import PREFIX, is_shipped, locate


@dataclass(frozen=True, repr=False)
class Run:
    """A trained run, opened for use: its settings, its policy and its learner."""

    folder: RunFolder
    settings: TrainSettings
    iteration: int
    env_steps: int  # that it was trained on
    policy: Policy
    learner: Learner
    horizon: int  # steps of an episode
    feedback: str  # what the policy is fed, see `envs.core.environment.Environment`
    fed_the_reward: bool  # whether that is what training maximised
    device: torch.device
    kept: Kept | None = None  # what has adapted, of a policy that was kept after adaptation

    def __repr__(self) -> str:
        env, algo = self.settings.env.name, self.settings.algo.name
        return f"Run('{self.folder.path}', env={env}, algo={algo}, iteration={self.iteration}, device={self.device})"

    @property
    def adapted(self) -> Parameters | None:
        """The parameters (1, ...) from which adaptation goes on; None: from the policy as it was trained."""
        return self.kept.parameters if self.kept else None

    @property
    def name(self) -> str:
        """What `run=` calls it."""
        path = self.folder.path
        return f"{PREFIX}/{path.name}" if is_shipped(path) else str(path)

    @property
    def output(self) -> RunFolder:
        """Where its evaluations and videos go: its folder, or a shipped policy's name in the working folder."""
        if not is_shipped(self.folder.path):
            return self.folder
        return RunFolder(Path(f"{PREFIX}-{self.folder.path.name}"))

    def evaluated(self, split: str) -> RunFolder:
        """The folder of its evaluation on a split; of a shipped policy, what the user has made goes before its own."""
        made = (self.output.path / "evaluation" / f"{split}.json").is_file()
        return self.output if made else self.folder

    @property
    def gradient_steps(self) -> int:
        """How many an evaluation takes if nothing else is said: as set, or as many as in training."""
        steps = self.settings.evaluate.steps
        return self.learner.settings.inner.steps if steps is None else steps

    def environment(self, simulations: int, seed: int, threads: int = 0) -> Environment:
        """The environment it was trained on, with N simulations.

        Raises:
            ConfigError: if so many cannot fit into the memory of the machine or of its GPU.
        """
        length, gpu = self.policy.max_length, gpu_memory(self.device)
        told = f"{simulations} episodes at once of {length} steps"
        check_rollout(self.settings.agent, simulations, length, told, gpu)
        return build_environment(self.settings.env, simulations, seed, threads)

    def held_out(self, split: str, tasks: int) -> Tasks:
        """Tasks of a split: the first of its published list.

        Raises:
            ConfigError: for a longer list than there is.
            TaskError: for a split that the environment does not have.
        """
        if not 1 <= tasks <= LISTED:
            raise ConfigError(f"a list of {split} tasks has 1 to {LISTED} tasks, not {tasks}")
        return self.environment(1, 0, 1).distribution.published(split, tasks)

    def has(self, split: str) -> bool:
        """Whether the environment has such a split; some have nothing beyond their training ranges."""
        try:
            self.held_out(split, 1)
        except TaskError:
            return False
        return True


@enough_memory()
def open_run(path: str | Path, device: str = "auto", checkpoint: str = "last", trust: Collection[str] = ()) -> Run:
    """Open a run folder's newest good checkpoint, or its best one; `pretrained/<name>` comes with the package.

    A run is data: nothing in the folder is executed. What it may name as its environment, `metarl.assembly.trust` says.

    Args:
        checkpoint: `last` or `best`.
        trust: modules outside of this project that the run may name, by their first names: their code will run.

    Raises:
        RunFolderError, CheckpointError: if the folder or every checkpoint in it is unusable, or another is asked for.
        EnvsError: if its environment is not there, or may not be named.
        DeviceError: if the device is not there, or its memory is used up.
    """
    if checkpoint not in ("last", "best"):
        raise CheckpointError(f"checkpoint={checkpoint}: must be one of last, best")
    folder = RunFolder.open(locate(path))
    settings = stored_settings(folder, trust)
    number = folder.best if checkpoint == "best" else None
    if checkpoint == "best" and number is None:
        raise CheckpointError(f"{path} has no best checkpoint yet: choose checkpoint=last")
    iteration, tensors, numbers = folder.load_checkpoint(number)
    where = resolve_device(device)
    torch.set_num_threads(settings.torch_threads)
    check_factory(settings.env.entry or settings.env.name)
    env, trial = build_environment(settings.env, 1, 0, 1), settings.algo.longest_trial()
    with torch.device("meta"):  # without memory: the sizes are compared before anything is allocated
        check_fit(build_policy(settings.agent, env, trial, torch.device("meta")), tensors, path)
    policy = build_policy(settings.agent, env, trial, where)
    learners = build_learners(settings.phases(), policy, torch.Generator())
    learner = learners[-1]
    with fitting(f"{path}: the checkpoint does not fit the run's configuration"):
        load_policy(policy, tensors)
        learner.load(part(tensors, f"learner.{len(learners) - 1}."))
        env_steps = int(numbers["env_steps"])
    policy.set_attention(learner.attention)
    kept = from_checkpoint(tensors, numbers, policy, learner, path)
    told = (env.horizon, env.feedback, env.fed_the_reward)
    return Run(folder, settings, iteration, env_steps, policy, learner, *told, where, kept)


def keep(run: Run, kept: Kept, path: Path) -> Path:
    """Write a run's policy, with what has adapted, to a folder that `open_run` opens.

    Raises:
        MetaRLError: if the memory cannot be kept.
        RunFolderError: if it cannot be written, or something else is there.
    """
    tensors, state = to_checkpoint(kept)
    tensors |= {f"policy.{name}": value for name, value in run.policy.state_dict().items()}
    number = len(run.settings.phases()) - 1
    known = {name: value for name, value in run.learner.state().items() if not name.startswith("optimiser.")}
    tensors |= {f"learner.{number}.{name}": value for name, value in known.items()}
    state |= {"env_steps": run.env_steps, SLIM: True}
    return keep_adapted(run.folder, path, Checkpoint(run.iteration, tensors, state)).path


def check_fit(policy: Policy, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """A checkpoint's tensors must be those of the policy that the configuration describes, name by name.

    Raises:
        CheckpointError: with the first that is not.
    """
    for name, value in policy.state_dict().items():
        found = tensors.get(f"policy.{name}")
        if found is None or found.shape != value.shape or found.dtype != value.dtype:
            what = "missing" if found is None else f"{tuple(found.shape)} {found.dtype}".replace("torch.", "")
            wanted = f"{tuple(value.shape)} {value.dtype}".replace("torch.", "")
            raise CheckpointError(
                f"{path}: the checkpoint does not fit the run's configuration: {name} is {what}, expected {wanted}"
            )
