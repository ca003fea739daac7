"""One simulation in a browser's 3D scene, by mjviser."""

from __future__ import annotations

import mujoco
import numpy as np
from mjviser import ViserMujocoScene
from mjviser.conversions import get_body_name
from viser import ViserServer

from envs.core.environment import MujocoEnvironment

# What a simulation's own model may change in the scene.
LOOKS = ("geom_type", "geom_size", "geom_pos", "geom_quat", "geom_rgba", "geom_dataid", "body_pos", "body_quat")
FLOOR, GAP = 80.0, 0.004  # m, how wide a floor is, and how far below the surface that is touched
HIDDEN = 3  # geom groups from here on are not drawn
FLOOR_COLOUR = (214, 219, 226)


class Drawing:
    """The first simulation of an environment, always as its present task has it.

    Attributes:
        follows: whether the robot stays in the middle, and the world moves; at first as the model's camera does.
    """

    def __init__(self, server: ViserServer, env: MujocoEnvironment) -> None:
        self._env, model = env, env.drawn_model(0)
        self._scene = ViserMujocoScene(server, model, 1)
        self._data, self._looks = self._scene.mj_data, _looks(model)
        self.follows = False
        _floors(server, model)
        self.show()
        self._take_camera(server, model)

    @property
    def follows(self) -> bool:
        return self._scene.camera_tracking_enabled

    @follows.setter
    def follows(self, value: bool) -> None:
        self._scene.camera_tracking_enabled = value

    def watch(self, env: MujocoEnvironment) -> None:
        """Draw another environment, in which the same bodies move."""
        self._env = env
        self.vary()

    def vary(self) -> None:
        """The task has changed: draw the shapes that it has now."""
        model = self._env.drawn_model(0)
        if (looks := _looks(model)) != self._looks:
            self._looks = looks
            self._scene.mj_model, self._scene.mj_data = model, mujoco.MjData(model)
            self._scene.rebuild_visual_handles()
            _floors(self._scene.server, model)
            self._data = self._scene.mj_data

    def show(self) -> None:
        """Move everything to where it is now."""
        for name, value in self._env.render_state(0).items():
            getattr(self._data, name)[:] = value
        mujoco.mj_kinematics(self._scene.mj_model, self._data)
        mujoco.mj_comPos(self._scene.mj_model, self._data)
        mujoco.mj_camlight(self._scene.mj_model, self._data)
        self._scene.update_from_mjdata(self._data)

    def _take_camera(self, server: ViserServer, model: mujoco.MjModel) -> None:
        """Look as the model's `viewer` camera does, or its first one."""
        if not model.ncam:
            return
        names = [model.camera(index).name for index in range(model.ncam)]
        chosen = names.index("viewer") if "viewer" in names else 0
        self.follows = int(model.cam_mode[chosen]) != int(mujoco.mjtCamLight.mjCAMLIGHT_FIXED)
        middle = self._data.subtree_com[0]
        origin = self._data.xpos[1] if self.follows and model.nbody > 1 else np.zeros(3)
        eye, forward = self._data.cam_xpos[chosen], -self._data.cam_xmat[chosen].reshape(3, 3)[:, 2]
        distance = max(float((middle - eye) @ forward), 0.1)
        camera = server.initial_camera
        camera.position, camera.look_at = eye - origin, eye + distance * forward - origin
        camera.fov = float(np.deg2rad(model.cam_fovy[chosen]))


def _floors(server: ViserServer, model: mujoco.MjModel) -> None:
    """Close the planes that are seen, which mjviser draws translucent, and take away its grids of those that are not.

    What a family does not need is parked underneath, and walls may be planes beside what is drawn of them.
    """
    for index in (model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)).nonzero()[0]:
        geom = model.geom(int(index))
        if model.geom_group[index] >= HIDDEN or model.geom_rgba[index, 3] == 0:
            body = get_body_name(model, int(geom.bodyid[0]))
            server.scene.remove_by_name(f"/fixed_bodies/{body}/{geom.name or None}")
            continue
        normal = np.zeros(3)
        mujoco.mju_rotVecQuat(normal, np.array([0.0, 0.0, 1.0]), model.geom_quat[index])
        server.scene.add_box(
            f"/fixed_bodies/floor_{index}",
            FLOOR_COLOUR,
            (FLOOR, FLOOR, GAP),
            position=model.geom_pos[index] - GAP * normal,
            wxyz=model.geom_quat[index],
            cast_shadow=False,
        )


def _looks(model: mujoco.MjModel) -> bytes:
    return b"".join(getattr(model, name).tobytes() for name in LOOKS)
