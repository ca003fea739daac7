"""Meta-train a policy, evaluate it on held-out tasks, and leave a run folder.

  python -m metarl.train [key=value ...]

Examples
  python -m metarl.train env=reach algo=maml seed=0
  python -m metarl.train env=point2d algo=reptile budget.minutes=5 run_dir=runs/first
  python -m metarl.train resume=runs/first budget.minutes=10
  python -m metarl.train -m algo=maml,reptile seed=0,1,2              a sweep: one run after the other
  python -m metarl.train -m seed=0,1 hydra/launcher=joblib threads=1  side by side; on clusters submitit_slurm, ray
  python -m metarl.train env=reach 'env.tasks.payload_mass=[0,2]'     another range of tasks
  python -m metarl.train env=reach algo.warm_start.run=runs/first     MAML on the policy that another run trained
  torchrun --nproc-per-node=2 -m metarl.train env=reach               two processes that share the tasks
  python -m metarl.train env=my_package.my_module:MyEnv               an environment of your own; likewise algo=, agent=
"""

from metarl.config.command_line import main
from metarl.config.settings import ResumeSettings, TrainSettings


def task(settings: TrainSettings | ResumeSettings) -> None:
    """Train, or resume a run, as configured."""
    from metarl.runs import train

    train(settings)


if __name__ == "__main__":
    main("train", task)
