"""A policy as an ONNX file: one step of acting, for robots without Python or torch.

The graph is `metarl.rollouts.acting.ActingStep`, which `Agent.predict` computes too, for one robot:

    observation (1, D), previous_action (1, A), feedback (1,), first (1,), position (1,) int64, memory.0, memory.1, ...
        -> action (1, A), next_memory.0, next_memory.1, ...

Everything is float32 but the position. The normaliser is inside. A new memory is 0 everywhere, and so are then the
position, the previous action and the feedback; each step raises the position by 1. The file says in its metadata, in
JSON under `metarl`, what the numbers mean, how often to ask for an action, and when the memory begins anew.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from envs.core.described import action, documentation, entries
from metarl.algorithms.adaptation import Parameters
from metarl.assembly.kept import Kept
from metarl.assembly.opened import Run
from metarl.errors import ConfigError, ExportError, RunWarning, install
from metarl.rollouts.acting import ActingStep
from metarl.rollouts.folded import folded
from metarl.run_folder import atomic_write, one_line, versions
from metarl.run_folder.files import guard

INPUTS = ("observation", "previous_action", "feedback", "first", "position")
MEANING = {
    "observation": "as the environment gives it, see environment.observation and environment.interface",
    "previous_action": "the action of the step before, 0 where the memory is new",
    "feedback": "what the robot sensed after that action, 0 where the memory is new",
    "first": "1 in the first step of an episode, else 0",
    "position": "of the step in the memory, 0 where it is new",
    "memory": "what the step before returned as next_memory, 0 where the memory is new",
    "action": "from -1 to 1, see environment.interface",
}
BEGINS = {
    "trial": "the memory is new where another task begins; an episode begins at max_length - horizon at the latest",
    "episode": "the memory is new in the first step of each episode",
}


def write_onnx(run: Run, kept: Kept, path: Path, opset: int | None = None) -> Path:
    """Write the acting step of a policy, with what has adapted, as an ONNX file.

    A memory that was kept is not in it, since whoever runs the file holds the memory: there is a RunWarning.

    Args:
        opset: of ONNX; None: the exporter's own.

    Raises:
        ConfigError: without the packages of the extra `export`, or for an opset that is not there.
        ExportError: if the policy's step cannot be traced.
        RunFolderError: if the file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  - the exporter needs it
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: {install('export')}") from None
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not 18 <= opset <= newest:
        raise ConfigError(f"opset={opset}: must be from 18 to {newest}, which onnx {onnx.__version__} has")
    model = _traced(run, kept.parameters, opset)
    if opset is not None and (found := model.opset_import[0].version) != opset:
        raise ConfigError(f"opset={opset}: the exporter of torch {torch.__version__} cannot write it, only {found}")
    onnx.helper.set_model_props(model, {"metarl": json.dumps(_about(run, kept))})
    with guard(f"make the folder {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, model.SerializeToString())
    if kept.memory is not None:
        text = f"what the policy remembers of its task is not in {path}: there its memory begins new"
        warnings.warn(text, RunWarning, stacklevel=2)
    return path


class _Flat(nn.Module):
    """The acting step with the tensors of the memory one by one."""

    def __init__(self, step: ActingStep, structure: TreeSpec) -> None:
        super().__init__()
        self.step, self.structure = step, structure

    def forward(
        self, observation: Tensor, action: Tensor, feedback: Tensor, first: Tensor, position: Tensor, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        # Clones: a graph cannot write into what it is given.
        state = tree_unflatten([leaf.clone() for leaf in memory], self.structure)
        chosen, state = self.step(observation, action, feedback, first, state, position)
        return chosen, *tree_flatten(state)[0]


def _traced(run: Run, adapted: Parameters | None, opset: int | None) -> Any:
    """The model, as ONNX has it in memory."""
    # A copy with tensors of its own: the run may be on a GPU, and stays there.
    policy = copy.deepcopy(folded(run.policy, adapted, critic=False)).cpu().eval()
    leaves, structure = tree_flatten(policy.initial_state(1))
    if any(not isinstance(leaf, Tensor) for leaf in leaves):
        raise ExportError(f"a {type(policy).__name__} remembers more than tensors, and a graph cannot")
    inputs = (
        torch.zeros(1, policy.observation_size),
        torch.zeros(1, policy.action_size),
        torch.zeros(1),
        torch.ones(1),
        torch.zeros(1, dtype=torch.int64),
        *leaves,
    )
    memory = [f"memory.{index}" for index in range(len(leaves))]
    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                _Flat(ActingStep(policy), structure),
                inputs,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[*INPUTS, *memory],
                output_names=["action", *(f"next_{name}" for name in memory)],
            )
            assert program is not None
            return program.model_proto
    except Exception as error:  # what a foreign policy's code raises is anybody's guess
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {one_line(cause)}"
        raise ExportError(
            f"the step of {type(run.policy).__name__} cannot be traced ({reason}); it must be tensor operations whose "
            "course does not depend on numbers, and take the position as a tensor (1,)"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter speaks of packages nobody needs, warns of what its own code does, and prints what it failed on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _about(run: Run, kept: Kept) -> dict[str, Any]:
    """What the metadata says."""
    env, policy = run.environment(1, 0, 1), run.policy
    period = float(env.step_period)
    return {
        "format_version": 1,
        "run": kept.origin or run.name,
        "algorithm": run.settings.algo.label(),
        "iteration": run.iteration,
        "adapted_on": list(kept.history),
        "versions": versions(),
        "environment": {
            "name": env.name,
            "interface": documentation(env),
            "observation": [entry._asdict() for entry in entries(env)],
            "action": action(env),
            "control_period": {"value": period, "unit": "s"},
            "control_rate": {"value": 1.0 / period, "unit": "Hz"},
            "action_repeat": env.action_repeat,
            "horizon": {"value": run.horizon, "unit": "actions"},
            "feedback": run.feedback,
            "success": env.success_criterion,
        },
        "spaces": {
            "observation": {"shape": [policy.observation_size], "dtype": "float32"},
            "action": {"shape": [policy.action_size], "dtype": "float32", "low": -1.0, "high": 1.0},
        },
        "context": policy.context,
        "max_length": policy.max_length,
        "trial_episodes": run.learner.settings.trial_episodes,
        "memory": BEGINS.get(
            policy.context, "the memory is new in the first step of each episode; the position is free"
        ),
        "meaning": MEANING,
    }
