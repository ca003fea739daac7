"""Which geom each of many rays from one point meets first: MuJoCo's ray caster, spared the rays that meet nothing."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np

SOLID, PLANE, TRANSLUCENT, HIDDEN = 0, 1, 2, 5  # the geom groups of a model prepared for ray casting
CELLS = 128  # across the view, to sort out rays
NEAR = 1e-3  # m ahead of the origin; with a geom closer than this no ray is sorted out

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


class Hits(NamedTuple):
    """What n rays met first."""

    geom: np.ndarray  # (n,) int32; -1: nothing
    distance: np.ndarray  # (n,) m; infinite: nothing
    normal: np.ndarray  # (n, 3) unit vectors out of the surface


class View:
    """The geoms of some groups as seen from one point.

    Args:
        model: its `geom_group` holds SOLID, PLANE, TRANSLUCENT or HIDDEN.
        data: with up-to-date positions.
        origin: (3,) where the rays start.
        axis: (3,) roughly towards the middle of what is seen.
        groups: of `geom_group`, to be seen.
    """

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, origin: np.ndarray, axis: np.ndarray, groups: tuple[int, ...]
    ) -> None:
        self.model, self.origin = model, np.ascontiguousarray(origin, float)
        self._planes = _mask(PLANE) if PLANE in groups else None
        self._bodies = _mask(*(group for group in groups if group != PLANE))
        members = np.flatnonzero(self._bodies[model.geom_group])
        self.empty = len(members) == 0
        self._frame = _frame(axis)
        self._grid: np.ndarray | None = None
        if not self.empty:
            corners = (_corners(model, data, members) - self.origin) @ self._frame
            if corners[..., 2].min() > NEAR:
                self._fill(corners[..., :2] / corners[..., 2:])

    def first(self, data: mujoco.MjData, rays: np.ndarray) -> Hits:
        """What rays (n, 3) of unit length meet first. `data`, a copy for each thread, serves as scratch memory."""
        if self._planes is not None:
            hits = self._cast(data, rays, self._planes)
        else:
            hits = Hits(np.full(len(rays), -1, np.int32), np.full(len(rays), np.inf), np.zeros((len(rays), 3)))
        rows = np.flatnonzero(self.may_hit(rays))
        if len(rows):
            found = self._cast(data, rays[rows], self._bodies)
            closer = found.distance < hits.distance[rows]
            for whole, part in zip(hits, found, strict=True):
                whole[rows[closer]] = part[closer]
        return hits

    def may_hit(self, rays: np.ndarray) -> np.ndarray:
        """(n,) bool: False only for rays (n, 3) that meet no geom other than a plane."""
        if self._grid is None:
            return np.full(len(rays), not self.empty)
        across, above, ahead = (rays @ self._frame).T
        ahead = np.where(ahead > 1e-9, ahead, np.nan)  # a ray that goes backwards falls into no cell
        column = (across / ahead - self._low[0]) * self._per_length[0]
        row = (above / ahead - self._low[1]) * self._per_length[1]
        inside = (column > 0) & (row > 0) & (column < CELLS + 2) & (row < CELLS + 2)
        hit = np.zeros(len(rays), bool)
        hit[inside] = self._grid[row[inside].astype(np.int32), column[inside].astype(np.int32)]
        return hit

    def _fill(self, corners: np.ndarray) -> None:
        """Mark the cells that the boxes around the geoms, with projected corners (g, 8, 2), may cover."""
        low, high = corners.min(1), corners.max(1)
        self._per_length = CELLS / np.maximum(high.max(0) - low.min(0), 1e-9)
        # Cell 1 is the first of the geoms' own; an empty frame stands around them.
        self._low = low.min(0) - 1.5 / self._per_length
        self._grid = np.zeros((CELLS + 3, CELLS + 3), bool)
        first = np.floor((low - self._low) * self._per_length - 0.5).astype(int)
        last = np.floor((high - self._low) * self._per_length + 0.5).astype(int)
        for (left, bottom), (right, top) in zip(first, last, strict=True):
            self._grid[bottom : top + 1, left : right + 1] = True

    def _cast(self, data: mujoco.MjData, rays: np.ndarray, groups: np.ndarray) -> Hits:
        count = len(rays)
        geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty(3 * count)
        flat, far = np.ascontiguousarray(rays).reshape(-1), mujoco.mjMAXVAL
        mujoco.mj_multiRay(self.model, data, self.origin, flat, groups, True, -1, geom, distance, normal, count, far)
        distance[geom < 0] = np.inf
        return Hits(geom, distance, normal.reshape(count, 3))


def _mask(*groups: int) -> np.ndarray:
    return np.isin(np.arange(6), groups).astype(np.uint8)


def _frame(axis: np.ndarray) -> np.ndarray:
    """(3, 3) with columns across, above and ahead (the axis)."""
    ahead = axis / np.linalg.norm(axis)
    across = np.cross(ahead, np.eye(3)[np.abs(ahead).argmin()])
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(across, ahead), ahead], 1)


def _corners(model: mujoco.MjModel, data: mujoco.MjData, geoms: np.ndarray) -> np.ndarray:
    """World coordinates (g, 8, 3) of the corners of the geoms' bounding boxes."""
    box = model.geom_aabb[geoms]
    local = box[:, None, :3] + box[:, None, 3:] * _CORNERS
    return np.einsum("gij,gcj->gci", data.geom_xmat[geoms].reshape(-1, 3, 3), local) + data.geom_xpos[geoms][:, None]
