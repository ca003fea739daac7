"""RL^2 (Duan et al. 2016, arXiv 1611.02779) as a user of Stable-Baselines3 does it: RecurrentPPO of sb3-contrib.

Same environment and same wall time as in_context, and measured by the same code: what it learned is wrapped as a policy
of this project.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from agents.policy import Critic, Output, Policy, Position, State
from envs.adapters.sb3 import SB3VecEnv
from envs.core.environment import Environment
from envs.errors import TaskError
from experiments.compare.trials import TrialsVecEnv
from metarl.algorithms.threads import cores
from metarl.assembly.build import build_environment, stream_seed
from metarl.config.settings import TrainSettings
from metarl.errors import MetaRLError
from metarl.evaluation.curve import report
from metarl.rollouts.rollout import collect
from metarl.run_folder import atomic_write

RESULT = "evaluations.json"  # in the folder of the run
LSTM = 64  # units
BATCH = 2500  # environment steps of a minibatch
EPOCHS, LEARNING_RATE, LOG_STD = 4, 1e-3, -0.7


class Recurrent(Policy):
    """An LSTM policy of sb3-contrib, and the scales of its observations, as a policy of this project.

    It only acts: nothing is differentiated here, and no value is asked for. Its memory is that of the actor's LSTM.

    Args:
        model: the trained RecurrentPPO. scales: its observations' normalisation.
    """

    def __init__(self, model: Any, scales: VecNormalize, action_size: int, max_length: int) -> None:
        size = int(np.prod(scales.observation_space.shape))
        super().__init__(size - action_size - 2, action_size, "trial", max_length, 1.0)
        self.inside, self.scales = model.policy, scales
        self.critic = Critic(nn.Linear(1, 1))  # nobody asks it

    def initial_state(self, batch: int) -> State:
        shape = self.inside.lstm_hidden_state_shape
        return torch.zeros(batch, shape[0], shape[2]), torch.zeros(batch, shape[0], shape[2])

    def step(self, token: Tensor, state: State, position: Position) -> tuple[Output, State]:
        seen = torch.as_tensor(self.scales.normalize_obs(token.numpy()), dtype=torch.float32)
        memory = tuple(part.transpose(0, 1).contiguous() for part in state)
        chosen, memory = self.inside.get_distribution(seen, memory, torch.zeros(len(token)))
        normal = chosen.distribution
        after = tuple(part.transpose(0, 1).contiguous() for part in memory)
        return Output(normal.mean, normal.stddev.log(), torch.zeros(len(token))), after

    def forward(self, tokens: Tensor) -> Output:
        state, outputs = self.initial_state(len(tokens)), []
        for position, token in enumerate(tokens.unbind(1)):
            output, state = self.step(token, state, position)
            outputs.append(output)
        return Output(*(torch.stack(part, 1) for part in zip(*outputs, strict=True)))

    def head_names(self) -> frozenset[str]:
        return frozenset({"inside.action_net.weight", "inside.action_net.bias", "inside.log_std"})


class UntilLater(BaseCallback):
    """Ends training after so many seconds, at a control step."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.monotonic() + seconds

    def _on_step(self) -> bool:
        return time.monotonic() < self.end


def recurrent_ppo() -> Any:
    """The class.

    Raises:
        MetaRLError: if sb3-contrib is not installed.
    """
    try:
        from sb3_contrib import RecurrentPPO
    except ImportError:
        raise MetaRLError(
            "rl2_sb3: `sb3-contrib` is missing; run `pip install sb3-contrib` or install the extra `bench`"
        ) from None
    return RecurrentPPO


def learn(settings: TrainSettings, seconds: float) -> tuple[Any, VecNormalize]:
    """RecurrentPPO on trials, with the simulations and the discount of in_context, for so many seconds."""
    algorithm, algo = recurrent_ppo(), settings.algo
    seed = stream_seed(settings.seed, "environment") % 2**31
    environment = build_environment(settings.env, algo.tasks * algo.episodes, seed, settings.threads)
    length = environment.horizon * algo.trial_episodes
    env = SB3VecEnv(environment)
    env.seed(seed)
    scales = VecNormalize(TrialsVecEnv(env, algo.trial_episodes), gamma=algo.gamma)
    torch.set_num_threads(cores())  # as many as in_context's workers
    model = algorithm(
        "MlpLstmPolicy",
        scales,
        n_steps=length,  # of one trial
        batch_size=min(BATCH, length * env.num_envs),
        n_epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        gamma=algo.gamma,
        gae_lambda=algo.gae_lambda,
        policy_kwargs={"lstm_hidden_size": LSTM, "log_std_init": LOG_STD},
        seed=seed,
        device="cpu",
    )
    model.learn(10**12, callback=UntilLater(seconds))
    scales.training = False
    torch.set_num_threads(settings.torch_threads)
    return model, scales


def measure(settings: TrainSettings, policy: Policy, split: str) -> dict[str, Any]:
    """The evaluation on a split, by the protocol of the settings."""
    protocol, seed = settings.evaluate, stream_seed(settings.seed, "evaluation")
    env: Environment = build_environment(
        settings.env, protocol.tasks * protocol.episodes_per_step, seed, settings.threads
    )
    tasks = env.distribution.published(split, protocol.tasks)
    env.set_tasks(tasks)
    generator = torch.Generator().manual_seed(seed + 1)
    trial, mean = settings.algo.trial_episodes, protocol.deterministic
    episodes = collect(env, policy, generator=generator, trial_episodes=trial, deterministic=mean)
    return report([episodes], tasks, env=env, algo="rl2_sb3", split=split, seed=settings.seed, deterministic=mean)


def evaluations(settings: TrainSettings, folder: Path, seconds: float, console: Console) -> dict[str, Any]:
    """What RecurrentPPO learns in so many seconds, measured on `test` and, if there is such a split, on `ood`.

    A result that `folder` has already is loaded; a training that was stopped begins anew.

    Raises:
        MetaRLError: if sb3-contrib is not installed.
    """
    path = folder / RESULT
    if path.exists():
        return json.loads(path.read_bytes())
    console.print(f"RecurrentPPO for {seconds:.0f} s")
    start = time.monotonic()
    model, scales = learn(settings, seconds)
    spent = time.monotonic() - start
    policy = Recurrent(model, scales, model.action_space.shape[0], model.n_steps)
    found: dict[str, Any] = {}
    for split in ("test", "ood"):
        try:
            found[split] = measure(settings, policy, split)
        except TaskError:
            if split == "test":
                raise
            continue
        console.print(f"{split}: success {found[split]['curve'][-1]['success']['mean']:.3f} in the last episode")
    content = {"env_steps": model.num_timesteps, "seconds": spent, "splits": found}
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    atomic_write(path, json.dumps(content, indent=1).encode())
    return content
