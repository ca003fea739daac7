"""The CPU engine: `mujoco.batch.Batch` steps all simulations on a C thread pool with the GIL released."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Mapping
from difflib import get_close_matches

import mujoco
import numpy as np
import torch
from mujoco.batch import MODEL_FIELDS, Batch
from torch import Tensor

from envs.core.cores import usable_cores
from envs.core.simulator import Simulator
from envs.errors import ModelError

BOUNDS = {"geom_rbound", "geom_aabb"}
# A forked process has its parent's batches without their threads; to collect one of them would wait for these forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)
_WARNING = mujoco.mjtWarning
UNSTABLE = [
    int(w) for w in (_WARNING.mjWARN_BADQPOS, _WARNING.mjWARN_BADQVEL, _WARNING.mjWARN_BADQACC, _WARNING.mjWARN_BADCTRL)
]


class CpuSimulator(Simulator):
    """N simulations on `threads` threads (0: all cores); the physics does not depend on the number of threads.

    MuJoCo's automatic reset is off: an unstable simulation would jump to its initial state in silence. `step` counts
    its warnings and returns them; they are neither printed nor written to a file in the user's folder.
    """

    def __init__(self, model: mujoco.MjModel, num_simulations: int, threads: int = 0) -> None:
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        _silence_engine_log()
        self.model = model
        self.num_simulations = num_simulations
        # More threads than simulations or cores only adds waiting.
        threads = min(threads or usable_cores(), num_simulations)
        self.batch = Batch(model, num_simulations, threads)
        self._fields: dict[str, Tensor] = {}
        self._begun = False
        self._expanded: dict[str, Tensor] = {}

    def field(self, name: str) -> Tensor:
        if name not in self._fields:
            try:
                array = self.batch.bind(name)
            except ValueError as error:
                raise ModelError(f"'{name}' is not a field of a simulation: {error}") from None
            if self._begun and not array.flags.writeable:
                self._fill()
            self._fields[name] = _alias(array)
        return self._fields[name]

    def _fill(self) -> None:
        """Compute a derived field that has just been bound; the engine would leave it at zero until its next call."""
        held = {name: value.clone() for name, value in self._fields.items()}
        self.batch.forward()
        for name, value in held.items():
            self._fields[name].copy_(value)

    def set_model_fields(self, values: Mapping[str, Tensor]) -> None:
        for name in {*values, *self._expanded}:
            target = self.limits(name)
            if name not in values:
                target[:] = torch.as_tensor(np.array(self._default(name)), dtype=target.dtype)
                continue
            value = values[name]
            if value.shape != target.shape:
                raise ModelError(f"model field '{name}' has shape {tuple(target.shape)}, got {tuple(value.shape)}")
            if value.is_floating_point() and not torch.isfinite(value).all():
                bad = int((~torch.isfinite(value)).flatten(1).any(-1).nonzero()[0, 0])
                raise ModelError(f"model field '{name}' of simulation {bad} is not finite")
            target.copy_(value)
        if self._expanded:
            self.batch.set_const()
        # That computes the bounds of primitives anew, and leaves those of meshes as compiled.
        for name in BOUNDS & {*values}:
            self._expanded[name].copy_(values[name])

    def limits(self, name: str) -> Tensor:
        if name not in self._expanded:
            if name not in MODEL_FIELDS:
                close = get_close_matches(name, MODEL_FIELDS, 1)
                raise ModelError(f"'{name}' is not a model field" + (f"; did you mean '{close[0]}'?" if close else ""))
            self._expanded[name] = _alias(self.batch.expand(name))
        return self._expanded[name]

    def step(self, substeps: int) -> Tensor:
        warnings = self.batch.warning
        warnings[:] = 0
        self._begun = True
        self.batch.step(nstep=substeps)
        if not warnings.any():
            return torch.zeros(self.num_simulations, dtype=torch.bool)
        return torch.from_numpy(warnings[:, UNSTABLE, 1].any(-1))

    def reset(self, mask: Tensor | None, state: Mapping[str, Tensor]) -> None:
        ids = None if mask is None else mask.nonzero()[:, 0].numpy().astype(np.int32)
        if ids is not None and len(ids) == 0:
            return
        for name, value in state.items():
            if value.shape != self.field(name).shape:
                wanted, given = tuple(self.field(name).shape), tuple(value.shape)
                raise ModelError(f"the initial '{name}' has the shape {given}, expected {wanted}")
        self.batch.reset(ids=ids, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        for name, value in state.items():
            if ids is None:
                self.field(name).copy_(value)
            else:
                self.field(name)[mask] = value[mask].to(self.field(name).dtype)
        self._begun = True
        self.batch.forward(ids=ids)
        self.batch.warning[slice(None) if ids is None else ids] = 0

    def rays(self, origin: Tensor, direction: Tensor, exclude_body: int = -1, group: int | None = None) -> Tensor:
        groups = None if group is None else [index == group for index in range(mujoco.mjNGROUP)]
        distance, _ = self.batch.ray(origin.numpy(), direction.numpy(), groups, bodyexclude=exclude_body)
        distance[distance < 0] = np.inf
        return torch.from_numpy(distance)

    def model_of(self, index: int) -> mujoco.MjModel:
        return self.batch.get_model(index)

    def _default(self, name: str) -> np.ndarray:
        owner, _, leaf = name.rpartition(".")
        return getattr(self.model.opt if owner == "opt" else self.model, leaf)


def _alias(array: np.ndarray) -> Tensor:
    # torch warns that derived fields are read-only, which the interface `Simulator` says already.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _silence_engine_log() -> None:
    config_class = getattr(mujoco, "MjLogConfig", None)  # absent before MuJoCo 4
    if config_class is not None:
        config = config_class.get()
        config.logto_console = config.logto_file = False
        config.set()
