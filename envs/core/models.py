"""One MJCF, two compiled models: what the physics steps, and what pictures are made from.

A geom that touches nothing still costs the physics a pose in every step. So the physics gets a model without such
geoms, with the same states, masses and forces bit for bit, and pictures get the whole model.
"""

from __future__ import annotations

import copy
from pathlib import Path
from weakref import WeakKeyDictionary

import mujoco

from envs.errors import ModelError

# What a simulation's own model may change in a picture, by what it belongs to.
_GEOM_FIELDS = ("type", "size", "pos", "quat", "rgba", "rbound", "aabb")
_BODY_FIELDS = ("body_pos", "body_quat")
_REFERRING = ("actuators", "sensors", "tendons", "equalities", "pairs", "excludes")
_WRAPPED = (mujoco.mjtWrap.mjWRAP_SPHERE, mujoco.mjtWrap.mjWRAP_CYLINDER)
_DISTANCES = (mujoco.mjtSensor.mjSENS_GEOMDIST, mujoco.mjtSensor.mjSENS_GEOMNORMAL, mujoco.mjtSensor.mjSENS_GEOMFROMTO)
# A specification does not know where it was read from, but error messages name the source.
_SOURCES: WeakKeyDictionary[mujoco.MjSpec, str] = WeakKeyDictionary()


def load_spec(path: Path | str) -> mujoco.MjSpec:
    """Read an MJCF file.

    Raises:
        ModelError: in one line, naming the file, if it is missing or is not MJCF.
    """
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except (ValueError, OSError, mujoco.FatalError) as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from None
    _SOURCES[spec] = str(path)
    return spec


def parse_spec(text: str, source: str) -> mujoco.MjSpec:
    """Read an MJCF text.

    Args:
        text: the MJCF itself.
        source: where the text stands, such as `__file__`, for messages.

    Raises:
        ModelError: in one line, naming the source, if it is not MJCF.
    """
    try:
        spec = mujoco.MjSpec.from_string(text)
    except (ValueError, mujoco.FatalError) as error:
        raise ModelError(f"{source}: {' '.join(str(error).split())}") from None
    _SOURCES[spec] = source
    return spec


def physics_model(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """The compiled model without the geoms that are only drawn.

    A geom stays if a sensor, a pair or a tendon names it, if its moving body gets its inertia from it, or if a fluid
    acts on it; all stay where a sensor may meet any of them, or masses are scaled to a total. Meshes stay, used or not:
    simulations may differ in them.

    Raises:
        ModelError: in one line, naming the file, if it does not compile.
    """
    bare = spec.copy()
    # A copy drops in silence what refers to something missing; compiling the original raises the error.
    if any(len(getattr(spec, kind)) != len(getattr(bare, kind)) for kind in _REFERRING):
        _compile(spec, _SOURCES.get(spec))
    named = {name for sensor in bare.sensors for name in (sensor.objname, sensor.refname)}
    named |= {name for pair in bare.pairs for name in (pair.geomname1, pair.geomname2)}
    named |= {wrap.target.name for tendon in bare.tendons for wrap in tendon.path if wrap.type in _WRAPPED}
    if any(_may_meet_any(sensor) for sensor in bare.sensors) or bare.compiler.settotalmass > 0:
        return _compile(bare, _SOURCES.get(spec))
    weighs_all = bare.compiler.inertiafromgeom == mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_TRUE
    for geom in list(bare.geoms):
        weightless = _is_static(geom.parent) or (geom.parent.explicitinertial and not weighs_all)
        touches = geom.contype or geom.conaffinity or geom.fluid_ellipsoid
        if weightless and not touches and geom.name not in named - {""}:
            bare.delete(geom)
    return _compile(bare, _SOURCES.get(spec))


def _may_meet_any(sensor: mujoco.MjsSensor) -> bool:
    """Whether it measures to whatever geom is there: a ray, or a distance or contact of a whole body."""
    bodies = (mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_XBODY)
    return sensor.type == mujoco.mjtSensor.mjSENS_RANGEFINDER or (
        sensor.type in _DISTANCES and (sensor.objtype in bodies or sensor.reftype in bodies)
    )


def _is_static(body: mujoco.MjsBody) -> bool:
    return body.parent is None or (not body.joints and _is_static(body.parent))


class PictureModel:
    """The compiled model with everything that is drawn, in any simulation's own variant."""

    def __init__(self, spec: mujoco.MjSpec) -> None:
        self.model = _compile(spec, _SOURCES.get(spec))

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


def _compile(spec: mujoco.MjSpec, source: str | None) -> mujoco.MjModel:
    try:
        return spec.compile()
    except (ValueError, mujoco.FatalError) as error:
        where = f"{source or spec.modelfiledir or 'MJCF'}: model '{spec.modelname}'"
        raise ModelError(f"{where} does not compile: {' '.join(str(error).split())}") from None
