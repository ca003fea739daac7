"""Write one step of acting as an ONNX file, for robots without Python or torch (extra: pip install -e '.[export]'),
and beside it a model card, FILE.md.

  python -m metarl.export run=FOLDER out=FILE.onnx [key=value ...]

Examples
  python -m metarl.export run=pretrained/reach out=policy.onnx
  python -m metarl.export run=arm7 out=arm7.onnx                     an adapted policy, which metarl.adapt has left
  python experiments/deploy/run_onnx.py policy.onnx envs:metarl/Reach-v0
"""

from metarl.config.command_line import main
from metarl.config.deployment import ExportSettings


def task(settings: ExportSettings) -> None:
    """Export as configured."""
    from metarl.deploy import export_run

    export_run(settings)


if __name__ == "__main__":
    main("export", task)
