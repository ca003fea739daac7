"""Pictures of a MuJoCo model on any machine: by OpenGL where it works, else by ray casting."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import mujoco
import numpy as np

from envs.errors import ModelError
from envs.rendering import opengl
from envs.rendering.raycast import RaycastPainter

RAYCAST = "raycast"
_AUTOMATIC = ("", "1", "on", "true", "enable", "enabled")
_NO_OPENGL = ("0", "off", "false", "disable", "disabled", RAYCAST)
_WINDOW = ("glx", "wgl")  # MuJoCo's other names for glfw


Painter = opengl.OpenGLPainter | RaycastPainter

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_pictures() -> Iterator[None]:
    """Renderers that are made meanwhile draw without shadows and do not smooth edges.

    Without a graphics card that takes a fifth of the time with OpenGL, and a third by ray casting. It is not an
    argument of `Environment.drawer`, because a user's own environment may define that.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class FrameRenderer:
    """Draws states of one model, also those of a simulation whose geoms differ from the compiled ones.

    The first backend that works is taken: the one named by the variable MUJOCO_GL (egl, osmesa, glfw, cgl; "disable"
    means no OpenGL) or, if it names none, EGL, then OSMesa; after these always ray casting, which needs no graphics
    library. Backends that fail are skipped in silence; `backend` says which one draws. See `plain_pictures` too.

    Args:
        model: copied, never changed.
        width, height: of the pictures, in pixels.
        camera: name or number of a camera of the model; None looks at the whole model from a free camera.
        backend: "egl", "osmesa", "glfw", "cgl" or "raycast"; goes before MUJOCO_GL.

    Raises:
        ModelError: if the model has no such camera, a size is not positive, or no backend has this name.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        width: int = 480,
        height: int = 360,
        camera: str | int | None = "viewer",
        backend: str | None = None,
    ) -> None:
        if width < 1 or height < 1:
            raise ModelError(f"a picture needs a positive width and height, got {width} x {height}")
        names = _backends(os.environ.get("MUJOCO_GL", "") if backend is None else backend)
        self.camera = _find_camera(model, camera)
        self.model = copy.copy(model)
        self.data = mujoco.MjData(self.model)
        self._compiled: dict[str, np.ndarray] = {}
        self.backend, self._painter = _first_working(names, self.model, width, height)

    def render(
        self,
        qpos: np.ndarray,
        mocap_pos: np.ndarray | None = None,
        mocap_quat: np.ndarray | None = None,
        model_fields: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """One state as a fresh (height, width, 3) uint8 picture.

        Args:
            qpos: (nq,).
            mocap_pos: (nmocap, 3) m; None: as compiled.
            mocap_quat: (nmocap, 4) w x y z; None: as compiled.
            model_fields: name of a model field -> the simulation's own value, in the field's shape (`geom_size`,
                `geom_type`, `geom_rgba`, ...). Fields not named are as compiled.

        Raises:
            ModelError: for an unknown field, a wrong shape or a value that is not finite.
        """
        self._set_fields(model_fields or {})
        mujoco.mj_resetData(self.model, self.data)
        state = {"qpos": qpos, "mocap_pos": mocap_pos, "mocap_quat": mocap_quat}
        for name, value in state.items():
            if value is not None:
                _assign(name, getattr(self.data, name), value)
        # A picture shows positions only: it needs no contacts and no forces.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        mujoco.mj_flex(self.model, self.data)
        mujoco.mj_tendon(self.model, self.data)
        return self._painter.paint(self.data, self.camera)

    def close(self) -> None:
        """Free the backend; no `render` after it. Closing twice is fine."""
        self._painter.close()

    def _set_fields(self, values: Mapping[str, np.ndarray]) -> None:
        if not values and not self._compiled:
            return
        for name in values:
            if name not in self._compiled:
                field = getattr(self.model, name, None)
                if not isinstance(field, np.ndarray):
                    raise ModelError(f"'{name}' is not a model field that a simulation can have for itself")
                self._compiled[name] = field.copy()
        for name, compiled in self._compiled.items():
            _assign(name, getattr(self.model, name), values.get(name, compiled))
        mujoco.mj_setConst(self.model, self.data)  # the bounds that rays and views are culled by


def _backends(asked: str) -> tuple[str, ...]:
    """The OpenGL backends to try."""
    asked = asked.strip().lower()
    if asked in _AUTOMATIC:
        return opengl.candidates()
    if asked in _NO_OPENGL:
        return ()
    if asked in _WINDOW:
        return ("glfw",)
    if asked not in opengl.LIBRARIES:
        raise ModelError(f"'{asked}' is not a rendering backend; there are {', '.join((*opengl.LIBRARIES, RAYCAST))}")
    return (asked,)


def _first_working(names: tuple[str, ...], model: mujoco.MjModel, width: int, height: int) -> tuple[str, Painter]:
    for name in names:
        if opengl.usable(name):
            # Drivers fail in many ways; none of them may keep a user from a picture.
            with contextlib.suppress(Exception):
                return name, opengl.OpenGLPainter(model, width, height, name, _plain.get())
    return RAYCAST, RaycastPainter(model, width, height, _plain.get())


def _find_camera(model: mujoco.MjModel, camera: str | int | None) -> mujoco.MjvCamera:
    view = mujoco.MjvCamera()
    if camera is None:
        mujoco.mjv_defaultFreeCamera(model, view)
        return view
    names = [model.camera(index).name for index in range(model.ncam)]
    number = names.index(camera) if isinstance(camera, str) and camera in names else camera
    if not isinstance(number, int) or not 0 <= number < model.ncam:
        known = ", ".join(name or str(index) for index, name in enumerate(names)) or "none"
        raise ModelError(f"the model has no camera {camera!r}; it has {known} (None: a free camera)")
    view.type, view.fixedcamid = int(mujoco.mjtCamera.mjCAMERA_FIXED), number
    return view


def _assign(name: str, target: np.ndarray, value: np.ndarray) -> None:
    if np.shape(value) != target.shape:
        raise ModelError(f"'{name}' has shape {target.shape}, got {np.shape(value)}")
    if not np.isfinite(value).all():
        raise ModelError(f"'{name}' is not finite")
    target[:] = value
