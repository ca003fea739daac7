"""One MJCF, two compiled models: what the physics steps, and what pictures are made from.

Geoms that touch nothing cost the physics a pose each in every step. The physics gets a model without them, whose
states, masses and forces are the same bit for bit; pictures get the whole one.
"""

from __future__ import annotations

import copy
from pathlib import Path

import mujoco

from envs.errors import ModelError

# What a simulation's own model may change in a picture, by what it belongs to.
_GEOM_FIELDS = ("type", "size", "pos", "quat", "rgba", "rbound", "aabb")
_BODY_FIELDS = ("body_pos", "body_quat")


def load_spec(path: Path | str) -> mujoco.MjSpec:
    """Read an MJCF file.

    Raises:
        ModelError: in one line, naming the file, if it is missing or is no MJCF.
    """
    try:
        return mujoco.MjSpec.from_file(str(path))
    except (ValueError, OSError, mujoco.FatalError) as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from None


def physics_model(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """The compiled model without the geoms that are only drawn.

    Those remain that a sensor or a pair names, or whose moving body has no inertia but theirs. Meshes remain, used or
    not: simulations may differ in them.

    Raises:
        ModelError: in one line, naming the file, if it does not compile.
    """
    bare = spec.copy()
    named = {name for sensor in bare.sensors for name in (sensor.objname, sensor.refname)}
    named |= {name for pair in bare.pairs for name in (pair.geomname1, pair.geomname2)}
    for geom in list(bare.geoms):
        drawn = not geom.contype and not geom.conaffinity
        if drawn and geom.name not in named - {""} and (geom.parent.explicitinertial or _is_static(geom.parent)):
            bare.delete(geom)
    return _compile(bare)


def _is_static(body: mujoco.MjsBody) -> bool:
    return body.parent is None or (not body.joints and _is_static(body.parent))


class PictureModel:
    """The compiled model with everything that is drawn, in any simulation's own variant."""

    def __init__(self, spec: mujoco.MjSpec) -> None:
        self.model = _compile(spec)

    def variant(self, physics: mujoco.MjModel) -> mujoco.MjModel:
        """A copy in which the named geoms and the bodies are as in the given physics model."""
        model = copy.copy(self.model)
        for name in _BODY_FIELDS:
            getattr(model, name)[:] = getattr(physics, name)
        for index in range(physics.ngeom):
            name = physics.geom(index).name
            if name:
                theirs = model.geom(name).id
                for field in _GEOM_FIELDS:
                    getattr(model, f"geom_{field}")[theirs] = getattr(physics, f"geom_{field}")[index]
                if physics.geom_dataid[index] >= 0:
                    mesh = physics.mesh(int(physics.geom_dataid[index])).name
                    model.geom_dataid[theirs] = model.mesh(mesh).id
        return model


def _compile(spec: mujoco.MjSpec) -> mujoco.MjModel:
    try:
        return spec.compile()
    except (ValueError, mujoco.FatalError) as error:
        where = f"{spec.modelfiledir}: model '{spec.modelname}'"
        raise ModelError(f"{where} does not compile: {' '.join(str(error).split())}") from None
