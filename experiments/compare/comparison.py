"""The contenders of one environment: train them one after the other, and gather what is finished."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence

import torch
from rich.console import Console

from experiments.compare import scratch
from experiments.compare.contenders import EPISODES, GRADIENT, Job, Plan
from experiments.compare.report import Result
from experiments.compare.training import cost, finished, measure, settle
from metarl.errors import RunFolderError
from metarl.run_folder import RunFolder, atomic_write


class Comparison:
    """All contenders of a plan: trains them, and collects their results.

    Args:
        command: the command line of the whole comparison, without `only=`.
    """

    def __init__(self, plan: Plan, console: Console, quick: bool, command: str) -> None:
        self.plan, self.console, self.command = plan, console, command
        self.tasks = 2 if quick else scratch.TASKS
        self.episodes = {name: min(count, 20) if quick else count for name, count in EPISODES.items()}

    def order(self, chosen: Sequence[str]) -> list[tuple[str, int]]:
        """Contenders and seeds, in the order of the table."""
        names = [name for name in self.plan.names() if name in chosen]
        pairs = [(name, seed) for name in names for seed in self.plan.seeds_of(name)]
        return [(name, seed) for name, seed in pairs if name in EPISODES or self.plan.jobs(name, seed)]

    def train(self, name: str, seed: int) -> None:
        """Train and measure one seed of a contender, and the runs that it builds on.

        Raises:
            Interrupted, KeyboardInterrupt: after Ctrl-C; what is done so far is kept.
        """
        if name in EPISODES:
            return self._from_scratch(name, seed)
        jobs = self.plan.jobs(name, seed)
        for job in jobs:
            if job.contender != name:
                self.console.print(f"begins with {job.contender}, seed {seed}: {job.folder}", markup=False)
            settle(job)
        if jobs:
            measure(RunFolder.open(jobs[-1].folder), name, self.console, self.plan.steps)

    def results(self) -> list[Result]:
        """The results of everything that is finished, chosen or not."""
        found = (self._result(name, seed) for name in self.plan.names() for seed in self.plan.seeds_of(name))
        return [result for result in found if result is not None]

    def _result(self, name: str, seed: int) -> Result | None:
        if name in EPISODES:
            return self._scratch_result(name, seed)
        jobs = self.plan.jobs(name, seed)
        if not jobs or not _is_finished(jobs[-1]):
            return None
        folder = RunFolder.open(jobs[-1].folder)
        evaluations = measure(folder, name, self.console, self.plan.steps)
        commands = [line for job in jobs for line in job.commands()]
        note = ""
        if name == "multitask":
            choice = folder.read_evaluation("fine_tuning")
            note = f"seed {seed} fine-tuned with rate {choice['rate']:g}, gradient norm at most {choice['clip']:g}"
            commands.append(f"{self.command} only=multitask")
        else:
            commands += self._evaluations(name, folder, evaluations)
        env_steps, seconds = cost(folder)
        return Result(name, seed, env_steps, seconds, evaluations, commands, note)

    def _evaluations(self, name: str, folder: RunFolder, splits: Iterable[str]) -> list[str]:
        """The commands of the evaluations that training has not made."""
        own = [f"steps={self.plan.steps}"] if self.plan.steps and name in GRADIENT else []
        wanted = [split for split in splits if own or split != "test"]
        evaluate = ["python", "-m", "metarl.evaluate", f"run={folder.path}"]
        return [shlex.join([*evaluate, f"split={split}", *own]) for split in wanted]

    def _from_scratch(self, name: str, seed: int) -> None:
        # Their discount is that of the algorithms that they are compared with.
        settings = self.plan.config("in_context", f"seed={seed}", *self.plan.small)
        torch.set_num_threads(settings.torch_threads)
        folder = self.plan.folder(name, seed)
        content = scratch.evaluation(settings, folder, self.episodes[name], self.tasks, self.console)
        atomic_write(folder / "test.json", json.dumps(content, indent=1).encode())

    def _scratch_result(self, name: str, seed: int) -> Result | None:
        path = self.plan.folder(name, seed) / "test.json"
        if not path.exists():
            return None
        content = json.loads(path.read_bytes())
        note = (
            f"on the first {content['tasks']} test tasks, {content['env_steps']:,} environment steps and"
            f" {content['seconds']:.0f} s for each"
        )
        return Result(name, seed, 0.0, 0.0, {"test": content}, [f"{self.command} only={name}"], note)


def _is_finished(job: Job) -> bool:
    try:
        return finished(RunFolder.open(job.folder), job)
    except RunFolderError:
        return False
