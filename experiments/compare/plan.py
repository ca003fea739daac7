"""The comparison on one environment: its runs, their settings and budgets, and where they stand."""

from __future__ import annotations

import functools
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from metarl.assembly.repeat import changes, training
from metarl.config.composition import compose
from metarl.config.hydra_nodes import RECIPE_OF
from metarl.config.parsing import show
from metarl.config.settings import TrainSettings

composed = functools.cache(compose)


@dataclass(frozen=True)
class Job:
    """One run: what trains it, or the run that it continues a copy of.

    Args:
        settings: of a fresh training, without budget and folder. budget: such as "budget.iterations=350".
        copy_of: the folder to copy and continue; it has been trained by the same settings.
    """

    contender: str
    seed: int
    folder: Path
    settings: tuple[str, ...]
    budget: str
    copy_of: Path | None = None

    @property
    def resume(self) -> tuple[str, ...]:
        return (f"resume={self.folder}", self.budget)

    @property
    def start(self) -> tuple[str, ...]:
        return (*self.settings, self.budget, f"run_dir={self.folder}")

    def commands(self) -> list[str]:
        """The command lines that make this run."""
        if self.copy_of is None:
            return [training(self.start)]
        return [shlex.join(["cp", "-r", str(self.copy_of), str(self.folder)]), training(self.resume)]


@dataclass(frozen=True)
class Plan:
    """The comparison on one environment: on which seeds, in which folder, and how large its runs are.

    Args:
        small: overrides that make every training tiny (a smoke test); one of a setting that a policy does not have is
            left out. iterations: of each phase in a smoke test.
        steps: gradient steps before the last measurement (None: as in the recipes; `fine_tuning.STEPS` of fine-tuning).
        task: of Meta-World's ML1.
    """

    env: str
    runs: Path
    seeds: tuple[int, ...]
    small: tuple[str, ...] = ()
    iterations: int | None = None
    steps: int | None = None
    task: str | None = None

    @property
    def name(self) -> str:
        """What the comparison is called, and its folder."""
        return f"{self.env}_{self.task}" if self.task else self.env

    @property
    def words(self) -> tuple[str, ...]:
        """The environment, as a command line says it."""
        return (f"env={self.env}", *([f"env.task={self.task}"] if self.task else []))

    def folder(self, name: str, seed: int) -> Path:
        return self.runs / self.name / f"{name}-{seed}"

    def config(self, algo: str, *overrides: str) -> TrainSettings:
        return composed((*self.words, f"algo={algo}", *overrides))

    def has_recipe(self, algo: str) -> bool:
        """Whether somebody has tuned this algorithm here."""
        return f"{self.env}-{algo}" in RECIPE_OF

    def shared(self) -> int:
        """The iterations that in-context training and the gradient algorithms have in common; 0: none.

        There are some if the recipe of maml begins with in-context training, with the same settings as in_context.
        """
        maml, alone = self.config("maml"), self.config("in_context")
        (warm, iterations), budget = maml.phases()[0], alone.budget.iterations
        ours, theirs = (
            {key: value for key, value in algo.flat().items() if key != "name" and not key.startswith("inner.")}
            for algo in (warm, alone.algo)
        )
        if iterations is None or budget is None or iterations > budget or ours != theirs or maml.agent != alone.agent:
            return 0
        return self.iterations or iterations

    def phases(self, algo: str) -> tuple[int, int] | None:
        """Iterations in context, and then of the algorithm itself; None if its budget is not in iterations."""
        settings = self.config(algo)
        warm, total = settings.phases()[0].until or 0, settings.budget.iterations
        if total is None:
            return None
        if self.iterations:
            return (self.iterations, self.iterations) if warm and self.shared() else (0, 2 * self.iterations)
        return min(warm, total), max(total - warm, 0)

    def env_steps(self, algo: str) -> int | None:
        """The environment steps of a whole training, if no episode ends early; those in context are the shared ones."""
        alone, own = (self.config(name, *self.small) for name in ("in_context", algo))
        phases, horizon = self.phases(algo), own.env.horizon
        if phases is None or horizon is None:
            return None
        rounds = 1 if algo == "in_context" else own.algo.inner.steps + 1
        parts = ((alone.algo, phases[0]), (own.algo, phases[1] * rounds))
        return horizon * sum(each.tasks * each.episodes * each.trial_episodes * count for each, count in parts)

    def warm(self, seed: int) -> Job:
        """In-context training up to where the gradient algorithms take over."""
        job = self.fresh("in_context", "in_context", seed)
        return replace(job, contender="warm", folder=self.folder("warm", seed), budget=iterations(self.shared()))

    def fresh(self, name: str, algo: str, seed: int, *overrides: str) -> Job:
        """A new training with the recipe's budget."""
        settings = self.config(algo, *overrides)
        known, small = settings.flat(), self.small
        small = tuple(line for line in small if not line.startswith("agent.") or line.partition("=")[0] in known)
        words = (*self.words, f"algo={algo}", f"seed={seed}", *overrides, *small)
        return Job(name, seed, self.folder(name, seed), words, self.budget(settings))

    def budget(self, settings: TrainSettings) -> str:
        """The budget of a training with these settings, as an override."""
        if self.iterations:
            return iterations(2 * self.iterations)
        kind, value = next((kind, value) for kind, value in settings.budget if value is not None)
        return f"budget.{kind}={show(value)}"

    def like(self, model: TrainSettings, name: str, algo: str, seed: int, *overrides: str) -> Job:
        """A new training with a model's environment, sampling, update, network and budget, but for `overrides`.

        It must not lose because it was tuned less. What is the algorithm's own (its inner steps) and what is no
        comparison (how much the policy remembers) stays as the algorithm has it.
        """
        own = self.config(algo, *overrides)
        groups = ("algo.", "evaluate.", "env.", *(("agent.",) if own.agent.name == model.agent.name else ()))
        kept = ("env.name", "algo.name", "algo.inner.", "agent.context", "evaluate.steps")
        given = {line.partition("=")[0] for line in overrides}
        wanted = {
            key: value
            for key, value in model.flat().items()
            if key.startswith(groups) and not key.startswith(kept) and key not in given
        }
        job = self.fresh(name, algo, seed, *overrides, *changes(wanted, own.flat()))
        return replace(job, budget=self.budget(model))


def iterations(count: int) -> str:
    return f"budget.iterations={count}"
