"""The interface between environments and a physics engine.

An environment is written once, in torch operations on tensors that alias the engine's memory. Only the implementations
of this interface know which engine runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import mujoco
from torch import Tensor

# MuJoCo's state of a simulation, and what is done to it from outside.
STATE = ("time", "qpos", "qvel", "act", "ctrl", "mocap_pos", "mocap_quat", "xfrc_applied", "qfrc_applied")


class Simulator(ABC):
    """N simulations of one MuJoCo model, each with model fields of its own."""

    model: mujoco.MjModel
    num_simulations: int

    @abstractmethod
    def field(self, name: str) -> Tensor:
        """Live (N, ...) tensor over an mjData field. State fields may be written; derived ones are read-only.

        A derived field is 0 before the first reset, and after `step` one physics step old. One that is first asked for
        after that is of the present state; so take in the constructor what every step needs.
        """

    def state(self) -> dict[str, Tensor]:
        """Copies of the state fields (N, ...), as `reset` takes them."""
        return {name: self.field(name).clone() for name in STATE}

    @abstractmethod
    def set_model_fields(self, values: Mapping[str, Tensor]) -> None:
        """Give model fields per-simulation values (N, ...) and recompute every constant derived from them.

        Fields not named go back to the compiled model's values, so that draws never accumulate.

        Raises:
            ModelError: for a name that is not a model field, a wrong shape, or a value that is not finite.
        """

    @abstractmethod
    def limits(self, name: str) -> Tensor:
        """Live (N, ...) tensor over a model field from which no constant is derived, to be written at any time.

        `set_model_fields` sets it back as well.
        """

    @abstractmethod
    def step(self, substeps: int) -> Tensor:
        """Advance all simulations; returns (N,) bool: those whose physics failed, which were left as they are."""

    @abstractmethod
    def reset(self, mask: Tensor | None, state: Mapping[str, Tensor]) -> None:
        """Reset the masked simulations (N,) (None: all) to the given state fields and recompute derived fields."""

    @abstractmethod
    def rays(self, origin: Tensor, direction: Tensor, exclude_body: int = -1, group: int | None = None) -> Tensor:
        """Distances (N, R) from origins (N, R, 3) along directions (N, R, 3) to the first geom; inf if there is none.

        Distances count lengths of the direction. Rays pass through geoms of `exclude_body`, through what is only drawn,
        and with a `group` through all geoms outside that geom group.
        """

    @abstractmethod
    def model_of(self, index: int) -> mujoco.MjModel:
        """One simulation's own model, for rendering or for a serial check."""
