"""Adapt a trained policy to one task, from feedback alone, as on a robot; leaves a folder that run= takes.

  python -m metarl.adapt run=FOLDER out=FOLDER [key=value ...]

Examples
  python -m metarl.adapt run=pretrained/reach out=arm7                         to a held-out task of its own environment
  python -m metarl.adapt run=pretrained/grasp env=my_lab.rig:Rig episodes=10 steps=3 out=arm7    to your own robot
  python -m metarl.adapt run=arm7 env=my_lab.rig:Rig out=arm7                  further
  python -m metarl.adapt run=arm7 recording=arm7-recording.npz out=arm7        on episodes that were recorded
"""

from metarl.config.command_line import main
from metarl.config.deployment import AdaptSettings


def task(settings: AdaptSettings) -> None:
    """Adapt as configured."""
    from metarl.deploy import adapt_run

    adapt_run(settings)


if __name__ == "__main__":
    main("adapt", task)
