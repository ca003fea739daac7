"""Where bodies are at the present instant, from the joints alone.

The engine's own positions are one physics step old after a step, and its call that renews them finds the contacts as
well. A chain of joints is only a product of small matrices.
"""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from torch import Tensor

HINGE, SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)


class Chain:
    """The pose of a body relative to one it descends from (`root`, here the world), by hinges and slides.

    It is what `mj_kinematics` computes: P = F_1 J_1(q_1) F_2 J_2(q_2) ... F_end, with fixed transforms F and joints
    J(q) = I + sin(q) K + (1 - cos q) K^2 for a hinge, I + q K for a slide, K the joint's twist.
    """

    def __init__(self, model: mujoco.MjModel, body: str, root: str = "world") -> None:
        fixed, before, twists, addresses, hinges = np.eye(4), [], [], [], []
        for index in _path(model, model.body(root).id, model.body(body).id):
            fixed = fixed @ rigid(model.body_pos[index], model.body_quat[index])
            first = model.body_jntadr[index]
            for joint in range(first, first + model.body_jntnum[index]):
                fixed = fixed @ rigid(model.jnt_pos[joint])
                hinge = int(model.jnt_type[joint]) == HINGE
                before.append(fixed)
                twists.append(_twist(model.jnt_axis[joint], hinge))
                hinges.append(hinge)
                addresses.append(model.jnt_qposadr[joint])
                fixed = rigid(-model.jnt_pos[joint])
        self.end = torch.from_numpy(fixed)
        self.addresses = torch.tensor(addresses)
        self.rest = torch.from_numpy(model.qpos0[addresses].copy())
        self.hinges = torch.tensor(hinges)
        self.still = torch.from_numpy(np.stack(before))
        twist = torch.from_numpy(np.stack(twists))
        self.turned, self.turned_twice = self.still @ twist, self.still @ twist @ twist

    def __call__(self, qpos: Tensor) -> Tensor:
        """Homogeneous poses (N, 4, 4) for joint positions (N, nq)."""
        angle = qpos[:, self.addresses] - self.rest
        once = torch.where(self.hinges, angle.sin(), angle)[..., None, None]
        twice = torch.where(self.hinges, 1.0 - angle.cos(), 0.0)[..., None, None]
        links = self.still + once * self.turned + twice * self.turned_twice
        links = torch.cat([links, self.end.expand(len(links), 1, 4, 4)], 1)
        while links.shape[1] > 1:  # neighbours at once: few calls, which cost more than the numbers
            odd = links[:, links.shape[1] // 2 * 2 :]
            links = torch.cat([links[:, :-1:2] @ links[:, 1::2], odd], 1)
        return links[:, 0]

    def alone(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where a chain of one slide has homogeneous points (4, P), (4, P), and how they move with it, (4, P) / m."""
        assert self.hinges.tolist() == [False] and not self.rest.any()
        return self.still[0] @ self.end @ points, self.turned[0] @ self.end @ points


def rigid(position: np.ndarray, quaternion: np.ndarray | None = None) -> np.ndarray:
    """A homogeneous transform (4, 4) from a position (3,) and a quaternion (4,) w x y z (None: not turned)."""
    pose = np.eye(4)
    pose[:3, 3] = position
    if quaternion is not None:
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, quaternion)
        pose[:3, :3] = matrix.reshape(3, 3)
    return pose


def rotated(quaternion: Tensor, vector: Tensor) -> Tensor:
    """Vectors (..., 3) turned by unit quaternions (..., 4) w x y z."""
    w, axis = quaternion[..., :1], quaternion[..., 1:]
    across = 2.0 * torch.linalg.cross(axis, vector.expand_as(axis))
    return vector + w * across + torch.linalg.cross(axis, across)


def scalar_last(quaternion: Tensor) -> Tensor:
    """Unit quaternions (..., 4) w x y z as x y z w, of the two signs that with the largest component positive.

    It is what `scipy.spatial.transform.Rotation.as_quat` gives for the rotation's matrix.
    """
    moved = quaternion.roll(-1, -1)
    largest = moved.gather(-1, moved.abs().argmax(-1, keepdim=True))
    return moved * largest.sign()


def quaternion_of(matrix: Tensor) -> Tensor:
    """Unit quaternions (..., 4) w x y z of rotation matrices (..., 3, 3), up to the sign.

    The row of the outer product q q^T with the largest diagonal entry, by its length (Bar-Itzhack 2000).
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    rows = [
        torch.stack([1 + a + e + i, h - f, c - g, d - b], -1),
        torch.stack([h - f, 1 + a - e - i, b + d, c + g], -1),
        torch.stack([c - g, b + d, 1 - a + e - i, f + h], -1),
        torch.stack([d - b, c + g, f + h, 1 - a - e + i], -1),
    ]
    outer = torch.stack(rows, -2)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*outer.shape[:-2], 1, 4)
    row = outer.gather(-2, best)[..., 0, :]
    return row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)


def _path(model: mujoco.MjModel, root: int, body: int) -> list[int]:
    """The bodies from below the root down to a body."""
    path = []
    while body != root:
        path.append(body)
        body = int(model.body_parentid[body])
    return path[::-1]


def _twist(axis: np.ndarray, hinge: bool) -> np.ndarray:
    twist = np.zeros((4, 4))
    if hinge:
        x, y, z = axis
        twist[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    else:
        twist[:3, 3] = axis
    return twist
