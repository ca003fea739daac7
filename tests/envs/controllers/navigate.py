"""Drive to the goal, knowing goal, obstacles and motor gains: the free heading nearest to the goal's, at every step."""

import math

import torch
from torch import Tensor

from envs.families.navigate import ROBOT_RADIUS, SPEED, TRACK, TURN, Navigate

HEADINGS = 72
LOOK_AHEAD = 1.0  # m
MARGIN = 0.08  # m
WALL = 2.4  # m


def act(env: Navigate, goal: Tensor | None = None, door: float = math.inf) -> Tensor:
    """The action (N, 2) of the present state towards goals (N, 2); None: the tasks' own.

    Args:
        door: m, x from which on a wall at y = 0 must not be met.
    """
    here, goal = env.qpos[:, :2].float(), env.goal if goal is None else goal
    angle = torch.linspace(-math.pi, math.pi, HEADINGS + 1)[:-1]
    wanted = torch.atan2(*(goal - here).unbind(-1)[::-1])
    now = torch.atan2(*env.heading.float().unbind(-1)[::-1])
    away = torch.linalg.vector_norm(goal - here, dim=-1)
    free = _free(env, here, torch.stack([angle.cos(), angle.sin()], -1), away.clamp(max=LOOK_AHEAD), door)
    cost = _wrap(angle - wanted[:, None]).abs() + 0.2 * _wrap(angle - now[:, None]).abs()
    cost = cost + 4.0 * (1.0 - free / away.clamp(max=LOOK_AHEAD)[:, None]).clamp(min=0.0)
    chosen = angle[cost.argmin(-1)]
    error = _wrap(chosen - now)
    clear = free.gather(1, cost.argmin(-1, keepdim=True))[:, 0]
    speed = error.cos().clamp(min=0.0) ** 2 * torch.minimum(0.25 + clear, 1.5 * away).clamp(max=0.9 * SPEED)
    turn = (3.0 * error).clamp(-2.0, 2.0) * (away > 0.05)
    half = 0.5 * TRACK * turn
    left, right = (torch.stack([speed - half, speed + half]) / env.assigned["motor_gain"].T).unbind()
    action = torch.stack([(left + right) / (2 * SPEED), (right - left) / (TRACK * TURN)], -1)
    return action / action.abs().amax(-1, keepdim=True).clamp(min=1.0)


def _free(env: Navigate, here: Tensor, headings: Tensor, reach: Tensor, door: float) -> Tensor:
    """How far (N, HEADINGS) the robot can drive straight before an obstacle or a wall, at most `reach` (N,)."""
    offset = env.obstacles[..., :2] - here[:, None]  # (N, K, 2)
    radius = env.assigned["obstacle_radius"] + ROBOT_RADIUS + MARGIN
    radius = torch.where(env.obstacles[..., 2] > 0, radius, 0.0)
    if math.isfinite(door):  # its post is an obstacle, too
        post = torch.tensor([door, 0.0]) - here[:, None]
        offset = torch.cat([offset, post], 1)
        radius = torch.cat([radius, torch.full_like(radius[:, :1], ROBOT_RADIUS + MARGIN)], 1)
    # Where it is too near already, only headings that come nearer are blocked.
    radius = torch.minimum(radius, torch.linalg.vector_norm(offset, dim=-1) - 1e-3)
    along = offset @ headings.T  # (N, K, HEADINGS)
    across = offset.square().sum(-1, keepdim=True) - along.square()
    hit = along - (radius[..., None].square() - across).clamp(min=0.0).sqrt()
    blocked = (along > 0) & (across < radius[..., None].square())
    free = torch.where(blocked, hit, torch.inf).amin(1)
    room = WALL - ROBOT_RADIUS - 0.5 * MARGIN - here[:, None] * headings.sign()
    inner = (here[:, 1:].abs() - ROBOT_RADIUS - 0.5 * MARGIN).clamp(min=0.0)
    inwards = (here[:, 1:] * headings[:, 1] < 0.0) & (here[:, :1] > door)
    room[..., 1] = torch.where(inwards, torch.minimum(room[..., 1], inner), room[..., 1])
    to_wall = (room.clamp(min=0.0) / headings.abs().clamp(min=1e-6)).amin(-1)
    return torch.minimum(torch.minimum(free, to_wall), reach[:, None])


def _wrap(angle: Tensor) -> Tensor:
    return (angle + math.pi) % (2 * math.pi) - math.pi
