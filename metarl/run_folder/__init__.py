"""A run on disk; nothing outside this package knows the file formats.

    runs/reach-maml-0/
      config.yaml     the resolved configuration, package versions and git commit
      metrics.csv     one row per meta-iteration; tensorboard/ beside it, or wandb/
      checkpoints/    iteration-000120/ with tensors.safetensors and state.json; best.json names the best one
      dumps/          iteration-000120/ likewise: an update that was not finite, kept for `metarl.reproduce`
      evaluation/     <split>.json, and its adaptation curve as <split>.csv
      videos/
      report.html     a page about it, by `metarl.report` and at the end of training

No pickle anywhere: reading a run that somebody else made runs none of their code. Whatever has its final name is
complete: files and checkpoints are written under a temporary name, flushed to the disk and renamed, so that a kill or a
full disk at any moment leaves the last good checkpoint as it was. One process writes a run (`.lock`); others may read
it meanwhile.
"""

from metarl.run_folder.checkpoints import Checkpoint, read_checkpoint
from metarl.run_folder.files import atomic_write, one_line
from metarl.run_folder.folder import RunFolder
from metarl.run_folder.metrics import MetricsLog
from metarl.run_folder.provenance import git_commit, versions
from metarl.run_folder.slim import ADAPTED, SLIM, keep_adapted, slim_copy

__all__ = [
    "ADAPTED",
    "SLIM",
    "Checkpoint",
    "MetricsLog",
    "RunFolder",
    "atomic_write",
    "git_commit",
    "keep_adapted",
    "one_line",
    "read_checkpoint",
    "slim_copy",
    "versions",
]
