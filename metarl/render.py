"""Film a trained run on one task: the episodes of its trial, and before and after gradient steps, side by side.

  python -m metarl.render run=FOLDER [key=value ...]

Examples
  python -m metarl.render run=runs/reach-maml-0 task=3 out=video.mp4
  python -m metarl.render run=pretrained/navigate task=most_improved steps=[0,1,3] out=film.gif
  python -m metarl.render -m run=runs/reach-maml-0 split=test,ood task=0,1,2
"""

from metarl.config.command_line import main
from metarl.config.settings import RenderSettings


def task(settings: RenderSettings) -> None:
    """Film a run as configured."""
    from metarl.evaluation.films import render_run

    render_run(settings)


if __name__ == "__main__":
    main("render", task)
