"""The installed package `metaworld`: where its models lie. It is found, and never imported."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

import mujoco

from envs.core.models import load_spec
from envs.errors import PackageError

VERSION = "3.1.1"
INSTALL = f"pip install --no-deps metaworld=={VERSION}"  # its dependencies would bring MuJoCo 3.3.0
# The mocap body holds the hand at its own place, and rotations count five times: anchor, relative position, relative
# quaternion, torque scale. The last number tells the engine that this pose is meant, not that of the initial state.
WELD = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0, 0.0]
ACROSS, UP = (-0.537, 0.844, 0.0), (-0.441, -0.281, 0.853)  # in the pictures


def models() -> Path:
    """The folder with the package's models, one MJCF file per scene.

    Raises:
        PackageError: in one line, if the package is not installed, or is of another version.
    """
    found = util.find_spec("metaworld")
    if found is None or found.origin is None:
        raise PackageError(f"env=metaworld reads its models from the package metaworld: {INSTALL}")
    try:
        version = metadata.version("metaworld")
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    if version != VERSION:
        raise PackageError(f"metaworld {version} is installed, and these tasks are those of {VERSION}: {INSTALL}")
    return Path(found.origin).parent / "assets" / "sawyer_xyz"


def load_scene(name: str) -> mujoco.MjSpec:
    """The scene `sawyer_<name>.xml`, the hand welded to the mocap body as Meta-World does.

    Raises:
        PackageError, ModelError: if it cannot be read.
    """
    spec = load_spec(models() / f"sawyer_{name}.xml")
    (weld,) = spec.equalities
    weld.data[:] = WELD
    camera = spec.worldbody.add_camera(name="viewer", pos=[1.1, 1.3, 0.9], fovy=42)  # before the arm, over the table
    camera.alt.type, camera.alt.xyaxes = mujoco.mjtOrientation.mjORIENTATION_XYAXES, [*ACROSS, *UP]
    spec.option.disableflags |= int(
        mujoco.mjtDisableBit.mjDSBL_MULTICCD
    )  # single contacts, as the package's engine has
    return spec
