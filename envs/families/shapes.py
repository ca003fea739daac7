"""Rigid objects as data: a kind and three half extents say what a task's object is; the engine's fields follow.

| kind            | extents (a, b, c)                                  | engine geom                     |
|-----------------|----------------------------------------------------|---------------------------------|
| box             | half edges                                         | box (a, b, c)                   |
| cylinder        | radius a, half height c                            | cylinder (a, c)                 |
| sphere          | radius a                                           | sphere (a)                      |
| capsule         | radius a, half length c of its straight part, lying | capsule (a, c)                 |
| ellipsoid       | half axes, lying: the shortest is upright          | ellipsoid, sorted (a, b, c)     |
| hexagonal_prism | circumscribed radius a, half height a              | mesh, the nearest of some radii |
| wedge           | isosceles triangle of half base a and height 2 a, 2 a deep | mesh, likewise          |
"""

from __future__ import annotations

import itertools
import math

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.errors import ModelError

PRIMITIVES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}
MESHES = ("hexagonal_prism", "wedge")
KINDS = (*PRIMITIVES, *MESHES)
MESH_RADII = (0.014, 0.018, 0.022, 0.026, 0.030, 0.036, 0.042)  # m; meshes cannot be scaled in a compiled model
_LYING = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)  # the capsule's axis, z by itself, along x


def add_meshes(spec: mujoco.MjSpec, kinds: tuple[str, ...]) -> None:
    """Put the meshes of those of the kinds that need them into a model, in every radius."""
    for kind, index in itertools.product(kinds, range(len(MESH_RADII))):
        if kind in MESHES:
            vertices = _vertices(kind, MESH_RADII[index])
            spec.add_mesh(name=f"{kind}_{index}", uservert=vertices.flatten().tolist())


def half_height(kind: str, extents: Tensor) -> Tensor:
    """The height (N,) in m of the centre above a table on which the object rests; extents (N, 3) in m."""
    radius = extents[:, 0]
    if kind in ("sphere", "capsule"):
        return radius
    if kind == "ellipsoid":
        return extents.min(-1).values
    if kind in MESHES:
        radius = mesh_radius(extents)[1]
        return radius if kind == "hexagonal_prism" else radius * 2 / 3
    return extents[:, 2]


def half_width(kind: str, extents: Tensor) -> Tensor:
    """Half of how far (N, 2) in m it reaches along x and y, lying on the table; extents (N, 3) in m.

    Of a mesh the radius, which is more than it reaches along y.
    """
    a, b, c = _own_axes(kind, extents).unbind(-1)
    if kind in ("box", "ellipsoid"):
        return torch.stack([a, b], -1)
    if kind in MESHES:
        a = mesh_radius(extents)[1]
    return torch.stack([a + c if kind == "capsule" else a, a], -1)


def mesh_radius(extents: Tensor) -> tuple[Tensor, Tensor]:
    """The mesh that stands for extents (N, 3): its index (N,) and its radius (N,) in m."""
    radii = torch.tensor(MESH_RADII, dtype=extents.dtype)
    index = (extents[:, :1] - radii).abs().argmin(-1)
    return index, radii[index]


def inertia_per_mass(kind: str, extents: Tensor) -> Tensor:
    """Principal moments (N, 3) in m^2 about the centre, along x, y, z, of a homogeneous body; extents (N, 3) in m."""
    a, b, c = _own_axes(kind, extents).unbind(-1)
    if kind == "box":
        moments = (b**2 + c**2) / 3, (a**2 + c**2) / 3, (a**2 + b**2) / 3
    elif kind == "cylinder":
        across = a**2 / 4 + c**2 / 3
        moments = across, across, a**2 / 2
    elif kind == "sphere":
        moments = (0.4 * a**2,) * 3
    elif kind == "ellipsoid":
        moments = (b**2 + c**2) / 5, (a**2 + c**2) / 5, (a**2 + b**2) / 5
    elif kind == "capsule":
        along, across = _capsule(a, c)
        moments = along, across, across
    else:
        radius = mesh_radius(extents)[1]
        moments = tuple(radius**2 * factor for factor in _MESH_MOMENTS[kind])
    return torch.stack(moments, -1)


# Regular hexagon of circumscribed radius 1, height 2; triangle of base 2 and height 2, depth 2.
_MESH_MOMENTS = {
    "hexagonal_prism": (5 / 24 + 1 / 3, 5 / 24 + 1 / 3, 5 / 12),
    "wedge": (2 / 9 + 1 / 3, 2 / 9 + 1 / 6, 1 / 6 + 1 / 3),
}


def _capsule(radius: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Moments per mass along and across the axis: a cylinder and two half balls."""
    cylinder, ball = 2 * half, 4 / 3 * radius  # volumes over pi r^2
    total = cylinder + ball
    along = (cylinder * radius**2 / 2 + ball * 0.4 * radius**2) / total
    shift = half**2 + 0.75 * half * radius
    across = (cylinder * (radius**2 / 4 + half**2 / 3) + ball * (0.4 * radius**2 + shift)) / total
    return along, across


def geom_fields(model: mujoco.MjModel, geom: int, kinds: list[str], extents: Tensor) -> dict[str, Tensor]:
    """Values (N, ngeom, ...) of the model fields that give one geom these kinds and extents (N, 3) in m.

    Raises:
        ModelError: for a kind that does not exist, or whose meshes are not in the model.
    """
    count = len(kinds)
    names = ("geom_type", "geom_size", "geom_quat", "geom_dataid", "geom_rbound", "geom_aabb")
    compiled = {name: torch.from_numpy(getattr(model, name).copy()) for name in names}
    fields = {name: value.repeat(count, *[1] * value.ndim) for name, value in compiled.items()}
    for kind in sorted(set(kinds)):
        if kind not in KINDS:
            raise ModelError(f"unknown shape '{kind}' (valid: {', '.join(KINDS)})")
        chosen = torch.tensor([each == kind for each in kinds]).nonzero()[:, 0]
        box, size, turn, mesh = _realised(model, kind, extents[chosen].double())
        fields["geom_type"][chosen, geom] = int(PRIMITIVES.get(kind, mujoco.mjtGeom.mjGEOM_MESH))
        fields["geom_size"][chosen, geom] = size
        fields["geom_quat"][chosen, geom] = turn
        fields["geom_dataid"][chosen, geom] = mesh.to(fields["geom_dataid"].dtype)
        fields["geom_aabb"][chosen, geom] = box
        fields["geom_rbound"][chosen, geom] = _bounding_radius(kind, box)
    return fields


def _own_axes(kind: str, extents: Tensor) -> Tensor:
    return extents.sort(-1, descending=True).values if kind == "ellipsoid" else extents


def _realised(model: mujoco.MjModel, kind: str, extents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The box around the geom (N, 6: centre, half extents), geom_size (N, 3), geom_quat (N, 4), geom_dataid (N,)."""
    turn = torch.tensor(_LYING if kind == "capsule" else (1.0, 0.0, 0.0, 0.0)).double().repeat(len(extents), 1)
    none = torch.full((len(extents),), -1)
    a, _, c = extents.unbind(-1)
    zero = torch.zeros_like(a)
    if kind == "sphere":
        return torch.stack([zero, zero, zero, a, a, a], -1), torch.stack([a, zero, zero], -1), turn, none
    if kind in ("cylinder", "capsule"):
        end = c + a if kind == "capsule" else c
        return torch.stack([zero, zero, zero, a, a, end], -1), torch.stack([a, c, zero], -1), turn, none
    if kind in MESHES:
        ids = torch.tensor([_mesh_id(model, f"{kind}_{number}") for number in range(len(MESH_RADII))])
        mesh = ids[mesh_radius(extents)[0]]
        box = _mesh_boxes(model)[mesh]
        return box, box[:, :3].abs() + box[:, 3:], torch.from_numpy(model.mesh_quat.copy())[mesh], mesh
    axes = _own_axes(kind, extents)
    return torch.cat([torch.zeros_like(axes), axes], -1), axes, turn, none


def _bounding_radius(kind: str, box: Tensor) -> Tensor:
    """The radius (N,) of the sphere around the origin of a geom in a box (N, 6)."""
    reach = box[:, :3].abs() + box[:, 3:]
    if kind in ("sphere", "capsule", "ellipsoid"):
        return reach.max(-1).values
    return reach[:, 1:].norm(dim=-1) if kind == "cylinder" else reach.norm(dim=-1)


def _mesh_id(model: mujoco.MjModel, name: str) -> int:
    try:
        return model.mesh(name).id
    except KeyError:
        raise ModelError(f"the model has no mesh '{name}': see add_meshes") from None


def _mesh_boxes(model: mujoco.MjModel) -> Tensor:
    """The box (nmesh, 6: centre, half extents) in m around every mesh, in the mesh's own frame."""
    boxes = []
    for start, number in zip(model.mesh_vertadr, model.mesh_vertnum, strict=True):
        corners = model.mesh_vert[start : start + number].astype(np.float64)
        low, high = corners.min(0), corners.max(0)
        boxes.append(np.concatenate([(high + low) / 2, (high - low) / 2]))
    return torch.from_numpy(np.stack(boxes))


def _vertices(kind: str, radius: float) -> np.ndarray:
    """Corners (V, 3) in m, centre of mass in the origin, principal axes along x, y, z."""
    if kind == "hexagonal_prism":
        angles = np.arange(6) * math.pi / 3
        ring = [(math.cos(angle), math.sin(angle)) for angle in angles]
        corners = [(x, y, z) for (x, y), z in itertools.product(ring, (-1.0, 1.0))]
    else:
        corners = [(x, y, z) for (x, z), y in itertools.product([(-1, -2 / 3), (1, -2 / 3), (0, 4 / 3)], (-1.0, 1.0))]
    return radius * np.array(corners, dtype=np.float64)
