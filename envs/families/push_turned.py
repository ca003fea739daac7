"""Push along axes that are turned by an unknown angle, an object whose centre of mass is off its middle."""

from __future__ import annotations

import math

import mujoco
import torch
from torch import Tensor

from envs.core.tasks import Range, TaskDistribution
from envs.families import shapes
from envs.families.push import Push

GOAL_LOW, GOAL_HIGH = (0.56, -0.20), (0.68, 0.20)  # m, where the goal lies
SHIFT, FAR_SHIFT = 0.4, 0.6  # of the half extent, in training and beyond
BALLAST = 2 / 3  # of the object's mass, in a small lump that moves its centre of mass


class PushTurned(Push):
    """Push an object to a goal that everybody sees, along axes that nobody told; 20 Hz, horizon 28 (1.4 s).

    Like a robot after its camera was mounted anew: what it commands along x moves it along some other direction over
    the table. One motion tells which, to whoever remembers what was commanded. The observation has positions alone: the
    hand's velocity would tell the turn to a policy without memory that can guess its own last action. Nor is there time
    to drift to the goal by what works wherever the hand is.

    Observation (D = 16, with `goal_visible` 20; float32):

    | index | meaning                                           | unit  | source                          |
    |-------|---------------------------------------------------|-------|---------------------------------|
    | 0-2   | grip point                                        | m     | sensor grip_position, 5 ms old  |
    | 3-5   | object's centre (its middle)                      | m     | qpos                            |
    | 6-7   | the same minus the grip point, x and y            | m     | qpos, sensor                    |
    | 8-11  | object's orientation                              | 1     | qpos, quaternion w x y z        |
    | 12-13 | goal, x and y                                     | m     | drawn in each episode           |
    | 14-15 | the same minus the object's centre                | m     | qpos                            |
    | 16-17 | cosine and sine of `turn`, only with `goal_visible` (an oracle) | 1 | task                  |
    | 18-19 | `mass_shift`, likewise                            | 1     | task                            |

    Action (A = 2): change of the commanded grip point along x and y, turned by `turn` about the vertical; 1 is 3 cm per
    control step.

    Reward terms, success: as in `envs.families.push`. Feedback: 1 while the object is within 5 cm of the goal.

    Task parameters (hidden): `turn` (rad, counterclockwise as seen from above; any), `mass_shift` (2; where the centre
    of mass lies, along the object's own x and y, in shares of how far it reaches from its middle), and `object_shape`,
    `object_size`, `object_mass`, `friction` as in push. Two thirds of the mass are a small lump, the rest is
    homogeneous; the inertia follows. ood: as in push, and larger shifts. In each episode the goal is drawn anew, and
    where the object starts.

    Args:
        goal_visible: makes it an oracle: it is told the turn and the shift. (The goal everybody sees.)
    """

    name = "push_turned"
    feedback = "sparse"
    edition = 2  # the horizon was chosen after the first two were met
    horizon, observation_size, hidden_size = 28, 16, 4
    parameters = {
        "turn": Range(-math.pi, math.pi, unit="rad", within=(-2 * math.pi, 2 * math.pi), semantic=True),
        "mass_shift": Range(
            (-SHIFT, -SHIFT),
            (SHIFT, SHIFT),
            ood=[
                ((SHIFT, -SHIFT), (FAR_SHIFT, SHIFT)),
                ((-FAR_SHIFT, -SHIFT), (-SHIFT, SHIFT)),
                ((-SHIFT, SHIFT), (SHIFT, FAR_SHIFT)),
                ((-SHIFT, -FAR_SHIFT), (SHIFT, -SHIFT)),
            ],
            within=(-0.9, 0.9),
            semantic=True,
        ),
        **{name: Push.parameters[name] for name in ("object_size", "object_mass", "friction", "object_shape")},
    }
    stick = 0.106  # lower than in push: with its mass in front an object would topple

    def build_spec(self, distribution: TaskDistribution) -> mujoco.MjSpec:
        spec = super().build_spec(distribution)
        # The compiler marks a body whose inertia lies in its own frame, and the engine never looks there again.
        spec.body("object").ipos, spec.body("object").iquat = (0.001, 0.002, 0.003), (0.9, 0.1, 0.2, 0.3)
        return spec

    def bind(self) -> None:
        super().bind()
        self.goal = torch.zeros(self.num_simulations, 2)
        self.goal_marks = self.simulator.field("mocap_pos")

    def apply_tasks(self) -> None:
        super(Push, self).apply_tasks()
        turn = self.assigned["turn"][:, 0]
        self.cosine, self.sine = turn.cos(), turn.sin()

    def object_fields(self) -> dict[str, Tensor]:
        fields = super().object_fields()
        kinds, extents = self.kinds(), self.assigned["object_size"].double()
        reach = torch.stack([shapes.half_width(kind, row[None])[0] for kind, row in zip(kinds, extents, strict=True)])
        shift = self.assigned["mass_shift"].double() * reach
        mass = self.assigned["object_mass"].double()
        moments, angle = loaded_inertia(fields["body_inertia"][:, self.object] / mass, shift)
        fields |= {name: self.repeated(name) for name in ("body_ipos", "body_iquat")}
        zero = torch.zeros_like(angle)
        fields["body_ipos"][:, self.object] = torch.cat([shift, zero[:, None]], -1)
        fields["body_iquat"][:, self.object] = torch.stack([(angle / 2).cos(), zero, zero, (angle / 2).sin()], -1)
        fields["body_inertia"][:, self.object] = mass * moments
        return fields

    def next_goal(self) -> Tensor:
        low, high = torch.tensor(GOAL_LOW), torch.tensor(GOAL_HIGH)
        return low + (high - low) * self.uniform(self.num_simulations, 2)

    def on_reset(self, mask: Tensor) -> None:
        super().on_reset(mask)
        self.goal[mask] = self.goal_marks[mask, 0, :2].float()

    def control(self, action: Tensor) -> None:
        x, y = action.unbind(-1)
        super().control(torch.stack([self.cosine * x - self.sine * y, self.sine * x + self.cosine * y], -1))

    def seen(self) -> list[Tensor]:
        position = self.object_position
        thing = [position, (position - self.grip)[:, :2], self.object_quat]
        return [self.grip, *thing, self.goal, self.goal - position[:, :2]]

    def hidden(self) -> Tensor:
        return torch.cat([torch.stack([self.cosine, self.sine], -1), self.assigned["mass_shift"]], -1)


def loaded_inertia(homogeneous: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Principal moments per mass (N, 3) in m^2 about a centre of mass that a lump has moved, and their axes' turn.

    Args:
        homogeneous: the moments (N, 3) in m^2 of the body without the lump, about its middle, along x, y, z.
        shift: from the middle to the centre of mass, (N, 2) in m, along x and y.

    Returns:
        The moments, along axes that are turned about z by the angle (N,) in rad.
    """
    # The parallel axis theorem twice: the rest lies at -shift from the centre of mass, the lump on the other side.
    lever = (1 - BALLAST) / BALLAST
    x, y = shift.unbind(-1)
    own = (1 - BALLAST) * homogeneous
    xx, yy, xy = own[:, 0] + lever * y**2, own[:, 1] + lever * x**2, -lever * x * y
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    mean, half = 0.5 * (xx + yy), torch.hypot(0.5 * (xx - yy), xy)
    return torch.stack([mean + half, mean - half, own[:, 2] + lever * (x**2 + y**2)], -1), angle
