"""Who is compared on an environment, on which seeds, by which commands."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.arguments import changes, training
from metarl.config.composition import compose
from metarl.config.parsing import show
from metarl.config.settings import TrainSettings

MAIN = ("reach", "grasp", "navigate")  # compared in full, on three seeds
GRADIENT = ("maml", "fomaml", "reptile")
SEEDED = ("in_context", "maml", "multitask")  # those that get all the seeds
ORACLE = {name: "env.object_visible=true" for name in ("grasp", "grasp_uncalibrated")}  # others: env.goal_visible=true
EPISODES = {"ppo_scratch_1x": 10, "ppo_scratch_100x": 1000}  # of the one task that PPO learns from scratch

EQUAL = 0.98  # with this share of maml's environment steps, in_context counts as trained for as many

composed = functools.cache(compose)

NOTES = {
    "in_context": "adapts within the episode, without a gradient",
    "in_context_equal": "in_context, trained on until it has had as many environment steps as maml",
    "maml": "second order; gradient steps on top of the context",
    "fomaml": "first order",
    "reptile": "",
    "multitask": "without memory; sampling and update as in_context, environment steps as maml; fine-tuned",
    "ppo_scratch_1x": "Stable-Baselines3 PPO from nothing on each task alone, with the episodes of one adaptation step",
    "ppo_scratch_100x": "the same with a hundred times as many episodes",
    "oracle": "in_context that is told what the others have to find out",
}


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
    """The comparison on one environment: which contenders on which seeds, in which folder.

    Args:
        small: overrides that make every training tiny (a smoke test). iterations: of each phase in a smoke test.
        steps: gradient steps before the last measurement (None: as in the recipes; `training.STEPS` of fine-tuning).
    """

    env: str
    runs: Path
    seeds: tuple[int, ...]
    small: tuple[str, ...] = ()
    iterations: int | None = None
    steps: int | None = None

    def names(self) -> list[str]:
        """The contenders of this environment, in the order of the table."""
        if self.env in MAIN:
            return list(NOTES)
        return ["in_context", "in_context_equal", "maml", "multitask"]

    def seeds_of(self, name: str) -> tuple[int, ...]:
        return self.seeds if name.removesuffix("_equal") in SEEDED else self.seeds[:1]

    def folder(self, name: str, seed: int) -> Path:
        return self.runs / self.env / f"{name}-{seed}"

    def config(self, algo: str, *overrides: str) -> TrainSettings:
        return composed((f"env={self.env}", f"algo={algo}", *overrides))

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
        return replace(job, contender="warm", folder=self.folder("warm", seed), budget=_iterations(self.shared()))

    def fresh(self, name: str, algo: str, seed: int, *overrides: str) -> Job:
        """A new training with the recipe's budget."""
        settings = (f"env={self.env}", f"algo={algo}", f"seed={seed}", *overrides, *self.small)
        budget = self.config(algo, *overrides).budget
        kind, value = next((kind, value) for kind, value in budget if value is not None)
        line = f"budget.{kind}={show(value)}"
        if self.iterations:
            line = _iterations(2 * self.iterations)
        return Job(name, seed, self.folder(name, seed), settings, line)

    def jobs(self, name: str, seed: int) -> list[Job]:
        """The runs to train for a contender, in order; the last one is the contender's own."""
        return JOBS[name](self, seed) if name in JOBS else []


def in_context(plan: Plan, seed: int) -> list[Job]:
    """The warm start, continued to the end of in_context's own budget."""
    job = plan.fresh("in_context", "in_context", seed)
    if not plan.shared():
        return [job]
    return [plan.warm(seed), replace(job, copy_of=plan.folder("warm", seed))]


def in_context_equal(plan: Plan, seed: int) -> list[Job]:
    """The in-context run, continued until it has had as many environment steps as maml; nothing if it has them."""
    ours, wanted = plan.env_steps("in_context"), plan.env_steps("maml")
    if not plan.shared() or ours is None or wanted is None or ours >= EQUAL * wanted:
        return []
    before = in_context(plan, seed)
    last, folder = before[-1], plan.folder("in_context_equal", seed)
    job = replace(last, contender="in_context_equal", folder=folder, copy_of=last.folder)
    return [*before, replace(job, budget=f"budget.env_steps={wanted}")]


def gradient(algo: str) -> Callable[[Plan, int], list[Job]]:
    """The jobs of a gradient algorithm, which begins with the shared warm start if its recipe has one."""

    def jobs(plan: Plan, seed: int) -> list[Job]:
        phases = plan.phases(algo)
        if not plan.shared() or phases is None or not phases[0]:
            return [plan.fresh(algo, algo, seed)]
        job = plan.fresh(algo, algo, seed, f"algo.warm_start.run={plan.folder('warm', seed)}")
        return [plan.warm(seed), replace(job, budget=_iterations(phases[1]))]

    return jobs


def multitask(plan: Plan, seed: int) -> list[Job]:
    """Sampling and update as in_context, environment steps as maml: it must not lose because of its tuning."""
    model, own = plan.config("in_context"), plan.config("multitask")
    groups = ("algo.", "agent.") if own.agent.name == model.agent.name else ("algo.",)
    kept = ("algo.name", "algo.inner.", "agent.context")
    wanted = {key: value for key, value in model.flat().items() if key.startswith(groups) and not key.startswith(kept)}
    job = plan.fresh("multitask", "multitask", seed, *changes(wanted, own.flat()))
    if not plan.shared():  # no recipe of maml has been tuned here
        return [replace(job, budget=plan.fresh("in_context", "in_context", seed).budget)]
    steps = [plan.env_steps(algo) or 0 for algo in ("maml", "in_context")]
    return [replace(job, budget=f"budget.env_steps={max(steps)}")]


def oracle(plan: Plan, seed: int) -> list[Job]:
    return [plan.fresh("oracle", "in_context", seed, ORACLE.get(plan.env, "env.goal_visible=true"))]


JOBS: dict[str, Callable[[Plan, int], list[Job]]] = {
    "in_context": in_context,
    "in_context_equal": in_context_equal,
    **{name: gradient(name) for name in GRADIENT},
    "multitask": multitask,
    "oracle": oracle,
}


def _iterations(count: int) -> str:
    return f"budget.iterations={count}"
