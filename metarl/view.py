"""Watch a policy act in a browser, on this machine alone, and change its task while it acts (extra: pip install -e
'.[view]').

  python -m metarl.view run=FOLDER [key=value ...]

Examples
  python -m metarl.view run=pretrained/navigate_search
  python -m metarl.view run=arm7 split=ood task=3           an adapted policy, which metarl.adapt has left
  python -m metarl.view run=runs/x trust=my_robots port=8081
"""

from metarl.config.command_line import main
from metarl.config.deployment import ViewSettings


def task(settings: ViewSettings) -> None:
    """Serve the page as configured."""
    from metarl.live.serving import view_run

    view_run(settings)


if __name__ == "__main__":
    main("view", task)
