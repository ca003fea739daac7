"""Task distributions over batched MuJoCo environments.

Importing this registers `metarl/<Name>-v0` with Gymnasium, and nothing heavy: MuJoCo and torch wait for `make`.
"""

import gymnasium

_NAMES = {
    "AntDir": "ant_dir",
    "AntGoal": "ant_goal",
    "CheetahDir": "cheetah_dir",
    "CheetahVel": "cheetah_vel",
    "Grasp": "grasp",
    "GraspUncalibrated": "grasp_uncalibrated",
    "Navigate": "navigate",
    "NavigateSearch": "navigate_search",
    "Point2d": "point2d",
    "Push": "push",
    "PushTurned": "push_turned",
    "Reach": "reach",
    "ReachSearch": "reach_search",
    "ReachSquared": "reach_squared",
    "ReachWorn": "reach_worn",
}

for _id, _name in _NAMES.items():
    if f"metarl/{_id}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"metarl/{_id}-v0",
            entry_point="envs.adapters.gymnasium:TaskEnv",
            vector_entry_point="envs.adapters.gymnasium:VectorTaskEnv",
            # The environment itself truncates at its horizon.
            max_episode_steps=None,
            kwargs={"name": _name},
        )
