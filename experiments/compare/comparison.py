"""The contenders of one environment: train them one after the other, and gather what is finished."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from envs.registry import make as environment
from experiments.compare import rl2_sb3, scratch
from experiments.compare.contenders import contenders, in_context, jobs_of, seeds_of
from experiments.compare.contrasts import BOTH, Result
from experiments.compare.fine_tuning import described
from experiments.compare.kept import fingerprint, merged
from experiments.compare.plan import Job, Plan, composed
from experiments.compare.training import compared, cost, finished, measure, settle
from metarl.config.settings import TrainSettings
from metarl.errors import MetaRLError, RunFolderError
from metarl.run_folder import RunFolder, atomic_write

SETTINGS = "settings"  # of what is no run of ours, the fingerprint of those it was made with


class Comparison:
    """All contenders of a plan: trains them, and collects their results.

    Args:
        command: the command line of the whole comparison, without `only=` and `seeds=`.
    """

    def __init__(self, plan: Plan, console: Console, quick: bool, command: str) -> None:
        self.plan, self.console, self.command = plan, console, command
        self.contenders = contenders(plan)
        self.tasks = 2 if quick else scratch.TASKS
        self.most = 20 if quick else None  # episodes from scratch

    def order(self, chosen: Sequence[str]) -> list[tuple[str, int]]:
        """Contenders and seeds, in the order of the table."""
        pairs = [(name, seed) for name in self.contenders if name in chosen for seed in seeds_of(self.plan, name)]
        return [(n, seed) for n, seed in pairs if self.contenders[n].jobs is None or jobs_of(self.plan, n, seed)]

    def train(self, name: str, seed: int) -> None:
        """Train and measure one seed of a contender, and the runs that it builds on.

        Raises:
            Interrupted, KeyboardInterrupt: after Ctrl-C; what is done so far is kept.
        """
        contender = self.contenders[name]
        if contender.episodes:
            return self._from_scratch(name, seed, contender.episodes)
        if contender.recurrent:
            return self._recurrent(name, seed)
        jobs = jobs_of(self.plan, name, seed)
        self._settle(name, jobs)
        if jobs:
            measure(RunFolder.open(jobs[-1].folder), contender, self.console, self.plan.steps)

    def results(self, earlier: Sequence[Result] = ()) -> list[Result]:
        """The results of everything that is finished, chosen or not, in the order of the table.

        Args:
            earlier: results that stand beside them if the settings have not changed; a run that is there replaces them.
        """
        found = [self._result(name, seed) for name in self.contenders for seed in seeds_of(self.plan, name)]
        named = [replace(each, settings=self.settings(each.contender, each.seed)) for each in found if each]
        ours = [each for each in earlier if each.contender in self.contenders]
        order = list(self.contenders)
        return sorted(merged(named, ours, self.settings), key=lambda each: order.index(each.contender))

    def settings(self, name: str, seed: int) -> str:
        """The fingerprint of all settings that a contender's result comes from."""
        jobs = jobs_of(self.plan, name, seed)
        own = [compared(composed(job.start)) for job in jobs] or [compared(self._settings(seed))]
        budgets, edition = [job.budget for job in jobs], _edition(self.plan.env)
        return fingerprint([name, self.plan.steps, budgets, own, *([edition] if edition else [])])

    def _settle(self, name: str, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.contender != name:
                self.console.print(f"begins with {job.contender}, seed {job.seed}: {job.folder}", markup=False)
            settle(job)

    def _result(self, name: str, seed: int) -> Result | None:
        contender = self.contenders[name]
        if contender.episodes:
            return self._scratch_result(name, seed)
        if contender.recurrent:
            return self._recurrent_result(name, seed)
        jobs = jobs_of(self.plan, name, seed)
        if not jobs or not _is_finished(jobs[-1]):
            return None
        folder = RunFolder.open(jobs[-1].folder)
        evaluations = measure(folder, contender, self.console, self.plan.steps)
        commands = [line for job in jobs for line in job.commands()]
        note = ""
        if contender.tuned:
            note = f"fine-tuned with {described(folder.read_evaluation('fine_tuning'))}"
            commands.append(f"{self.command} seeds={seed} only={name}")
        else:
            commands += self._evaluations(contender.gradient, folder, evaluations, seed)
        env_steps, seconds = cost(folder)
        return Result(name, seed, env_steps, seconds, evaluations, commands, note, str(jobs[0].folder))

    def _evaluations(self, gradient: bool, folder: RunFolder, splits: Iterable[str], seed: int) -> list[str]:
        """The commands of the evaluations that training has not made."""
        own = [f"steps={self.plan.steps}"] if self.plan.steps and gradient else []
        wanted = [split for split in splits if own or split != "test"]
        evaluate, drawn = ["python", "-m", "metarl.evaluate", f"run={folder.path}"], [f"seed={seed}"] if seed else []
        return [shlex.join([*evaluate, f"split={split}", *own, *drawn]) for split in wanted]

    def _settings(self, seed: int) -> TrainSettings:
        """Those of in_context: what Stable-Baselines3 learns has its sampling and its discount."""
        return self.plan.config("in_context", f"seed={seed}", *self.plan.small)

    def _from_scratch(self, name: str, seed: int, episodes: int) -> None:
        settings, folder = self._settings(seed), self.plan.folder(name, seed)
        torch.set_num_threads(settings.torch_threads)
        self._own(folder, name, seed)
        played = min(episodes, self.most or episodes)
        content = scratch.evaluation(settings, folder, played, self.tasks, self.console)
        atomic_write(folder / "test.json", json.dumps(content, indent=1).encode())

    def _own(self, folder: Path, name: str, seed: int) -> None:
        """Mark the folder of what is no run of ours as made with the settings of today.

        Raises:
            MetaRLError: if it was made with others.
        """
        if folder.exists() and not self._is_own(folder, name, seed):
            raise MetaRLError(f"{folder} was made with other settings: move it away, or set another runs=")
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / SETTINGS, self.settings(name, seed).encode())

    def _is_own(self, folder: Path, name: str, seed: int) -> bool:
        path = folder / SETTINGS
        return path.exists() and path.read_text() == self.settings(name, seed)

    def _scratch_result(self, name: str, seed: int) -> Result | None:
        path = self.plan.folder(name, seed) / "test.json"
        if not path.exists() or not self._is_own(path.parent, name, seed):
            return None
        content = json.loads(path.read_bytes())
        tuned = ", ".join(f"{key} {value:g}" for key, value in content["tuned"].items())
        note = (
            f"on the first {content['tasks']} test tasks, {content['env_steps']:,} environment steps and"
            f" {content['seconds']:.0f} s for each; {tuned}"
        )
        return Result(name, seed, 0.0, 0.0, {"test": content}, [f"{self.command} seeds={seed} only={name}"], note)

    def _recurrent(self, name: str, seed: int) -> None:
        """Train it for as long as in_context, which is trained first."""
        rl2_sb3.recurrent_ppo()  # if it is missing, better now than after that
        jobs = in_context(self.plan, seed)
        self._settle(name, jobs)
        seconds = cost(RunFolder.open(jobs[-1].folder))[1]
        folder = self.plan.folder(name, seed)
        self._own(folder, name, seed)
        rl2_sb3.evaluations(self._settings(seed), folder, seconds, self.console)

    def _recurrent_result(self, name: str, seed: int) -> Result | None:
        path = self.plan.folder(name, seed) / rl2_sb3.RESULT
        if not path.exists() or not self._is_own(path.parent, name, seed):
            return None
        content = json.loads(path.read_bytes())
        commands = [f"{self.command} seeds={seed} only={name}"]
        return Result(name, seed, content["env_steps"], content["seconds"], content["splits"], commands)


def _is_finished(job: Job) -> bool:
    try:
        return finished(RunFolder.open(job.folder), job)
    except RunFolderError:
        return False


@functools.cache
def comparable(env: str) -> tuple[str, ...]:
    """What contrasts on an environment are about: success, and the return unless it depends on earlier episodes."""
    return BOTH[:1] if environment(env, 1).paid_once else BOTH


@functools.cache
def _edition(env: str) -> int:
    """That of the published lists on which results are measured."""
    return environment(env, 1).distribution.edition
