"""An accelerator against the CPU of the same machine: acting, rollouts, gradients, iterations, and a whole run.

Every figure is how many times faster the accelerator is; both sides compute the same from the same seeds, which the
first rows check. What is timed ends only when the accelerator has nothing more to do. The last figure is a default
reach run from its start to its end, for which there is as much time as is left of nine minutes.
"""

from __future__ import annotations

import csv
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path

import torch

from agents.transformer import TransformerPolicy
from envs.registry import make
from experiments.bench.gradient import LARGE, PEERS, SMALL, TOLERANCE, difference, learner_of, our_gradient, problem
from experiments.bench.gradient_peers import Gradients, by_learn2learn, replica
from experiments.bench.measure import MissingPeer, Row, Target, interleave, speedup, summary
from metarl.algorithms.in_context import InContext, shared_gradient
from metarl.assembly.device import CPU, device_name
from metarl.config.algorithms import InContextSettings
from metarl.config.composition import compose
from metarl.config.settings import TrainSettings
from metarl.errors import DeviceError
from metarl.rollouts.acting import Actor
from metarl.rollouts.episodes import Batch
from metarl.rollouts.rollout import collect
from metarl.training.trainer import Trainer

Run = Callable[[], object]
GROUP = "gpu"
MINUTES = 9.0  # for all of it
RESERVE = 20.0  # seconds of these for the table
WIDTHS = (32, 128, 512)
SIMULATIONS = (200, 1000, 4000)
LITTLE = ("algo.tasks=4", "algo.episodes=2", "env.horizon=10")
ALGORITHMS = ("maml", "fomaml", "reptile", "in_context", "multitask")
ROUNDING = Target("<=", 1e-3)  # of parameters after an iteration, relative to the largest of their tensor


@dataclass(frozen=True)
class Bench:
    """Where it runs, how much of everything, and until when."""

    device: torch.device
    quick: bool  # little of everything
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds for what remains."""
        return 60.0 * MINUTES - RESERVE - (time.monotonic() - self.began)

    def places(self) -> dict[str, torch.device]:
        """The two sides."""
        return {"there": self.device, "here": CPU}

    def faster(self, name: str, runs: Mapping[str, Run], target: Target | None = None) -> Row:
        """The row of the work that both sides do, in rounds for some five seconds."""
        timed = {side: partial(_finished, run, self.places()[side]) for side, run in runs.items()}
        once = sum(sum(seconds) for seconds in interleave(timed, 1).values())
        rounds = 1 if self.quick or self.left() < 60.0 else max(3, min(15, math.floor(5.0 / once)))
        seconds = interleave(timed, rounds, warm_up=False)
        here, there = (sorted(seconds[side])[rounds // 2] for side in ("here", "there"))
        return speedup(GROUP, name, seconds["there"], seconds["here"], target, f"{there:.4f} s against {here:.4f} s")


def accelerator(dry: bool) -> torch.device:
    """The accelerator of this machine; if it is a dry run, the CPU.

    Raises:
        DeviceError: if there is none.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None and not dry:
        raise DeviceError("torch finds no accelerator here; --dry sees on the CPU whether everything runs")
    return CPU if dry or found is None else found


def measurements(dry: bool, quick: bool) -> Iterator[Callable[[], list[Row]]]:
    """What is measured, in order; the clock starts here.

    Args:
        dry: take the CPU in the accelerator's place. quick: little of everything; so is a dry run.

    Raises:
        DeviceError: if there is no accelerator.
    """
    bench = Bench(accelerator(dry), dry or quick)
    torch.set_num_threads(1)  # as in a training; what shares its work between threads says so itself
    for measure in (correctness, acting, rollout, widths, iteration, meta_gradient, whole_run):
        yield partial(measure, bench)


def correctness(bench: Bench) -> list[Row]:
    """Every algorithm after one iteration from the same seed: how far its parameters are from those of the CPU."""
    rows = []
    for algo in ALGORITHMS:
        epochs = () if algo == "reptile" else ("algo.outer.n_epochs=2", "algo.outer.minibatches=2")
        settings = _training(algo, *LITTLE, "agent.width=16", *epochs)
        theirs, mine = (_iterated(settings, place) for place in (CPU, bench.device))
        worst = max(float((mine[n] - x).abs().max() / x.abs().max().clamp(min=1e-3)) for n, x in theirs.items())
        name = f"{algo}: parameters after an iteration differ from those of the CPU by"
        rows.append(summary(GROUP, name, [worst], "", ROUNDING, device_name(bench.device)))
    return rows


def acting(bench: Bench) -> list[Row]:
    """Control steps without the physics, in the middle of an episode of reach, for few and many simulations."""
    sizes = (8,) if bench.quick else SIMULATIONS
    return [
        bench.faster(f"acting in {count} simulations", _both(bench, partial(_acting, count, 32))) for count in sizes
    ]


def rollout(bench: Bench) -> list[Row]:
    """Rollouts of reach with the physics, which is on the CPU on both sides."""
    count = 4 if bench.quick else 200

    def collecting(device: torch.device) -> Run:
        env = make("reach", count, seed=0, threads=0)
        env.set_tasks(env.distribution.sample(count))
        torch.manual_seed(0)
        policy = TransformerPolicy(env.observation_size, env.action_size, env.horizon).to(device)
        return partial(collect, env, policy, generator=torch.Generator().manual_seed(0))

    return [bench.faster(f"rollout of {count} simulations of reach", _both(bench, collecting))]


def widths(bench: Bench) -> list[Row]:
    """Acting, and the gradient of a minibatch of in-context training, of wider and wider policies."""
    rows = []
    count, steps = (4, 5) if bench.quick else (50, 50)
    for width in WIDTHS[:1] if bench.quick else WIDTHS:
        acts = _both(bench, partial(_acting, count, width))
        learns = _both(bench, partial(_minibatch, count, steps, width))
        rows.append(bench.faster(f"width {width}: acting in {count} simulations", acts))
        rows.append(bench.faster(f"width {width}: gradient of {count} x {steps} steps", learns))
    return rows


def iteration(bench: Bench) -> list[Row]:
    """Meta-iterations of default reach training, and their rollouts and updates by themselves."""
    rows = []
    for algo in ("maml", "in_context"):
        small = (*LITTLE, "algo.outer.n_epochs=1", "algo.outer.minibatches=1") if bench.quick else ()
        trainers = {side: Trainer(_training(algo, *small), place) for side, place in bench.places().items()}
        parts: dict[str, dict[str, list[float]]] = {side: {"rollouts": [], "update": []} for side in trainers}

        def run(side: str) -> None:
            row = trainers[side].iterate()  # noqa: B023 - called before the next trainers are made
            for part, name in (("rollouts", "rollout_seconds"), ("update", "update_seconds")):
                parts[side][part].append(row[name])  # noqa: B023

        rows.append(bench.faster(f"{algo}: iteration of reach", {side: partial(run, side) for side in trainers}))
        for part in ("rollouts", "update"):
            there, here = parts["there"][part][1:], parts["here"][part][1:]
            rows.append(
                speedup(GROUP, f"{algo}: its {part}", there, here, None, f"{there[-1]:.3f} s, {here[-1]:.3f} s")
            )
    return rows


def meta_gradient(bench: Bench) -> list[Row]:
    """One second-order gradient against other libraries on the same accelerator, and against ours on the CPU."""
    rows: list[Row] = []
    absent: list[str] = []
    for size in (SMALL,) if bench.quick else (SMALL, LARGE):
        tasks, episodes, steps = (2, 2, 5) if bench.quick else size
        name = f"meta-gradient {tasks} x {episodes} x {steps}"
        given = {side: problem(tasks, episodes, steps, place) for side, place in bench.places().items()}
        mine = {side: our_gradient(*each, compile=False) for side, each in given.items()}
        rows.append(bench.faster(f"{name} against the CPU", mine))
        exact = mine["there"]()
        rows.append(_difference(f"{name}: difference from the CPU", exact, mine["here"]()))
        policy, support, query = given["there"]
        rates = learner_of(policy, support, compile=False).rate_parameters
        for peer, gradient in (PEERS | {"learn2learn": by_learn2learn}).items():
            other = partial(gradient, replica(policy, "math"), rates, support, query)
            try:
                rows.append(_difference(f"{name}: difference from {peer}", exact, other()))
            except MissingPeer as absence:
                absent.append(str(absence))
                continue
            target = Target(">=", 10.0) if size == LARGE and peer != "loop" else None
            rows.append(_against(bench, f"{name} against {peer}", mine["there"], other, target))
    if absent:
        raise MissingPeer("; ".join(dict.fromkeys(absent)), rows)
    return rows


def whole_run(bench: Bench) -> list[Row]:
    """Default reach training from its start to its end, or as far as the time allows."""
    tiny = ["budget.iterations=1", "algo.tasks=2", "algo.episodes=2", "env.horizon=5", "algo.warm_start.iterations=0"]
    tiny += ["evaluate.tasks=2", "evaluate.episodes_per_step=1", "evaluate.steps=1"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        train = ["-m", "metarl.train", "env=reach", "seed=0", f"device={bench.device}", *(tiny if bench.quick else ())]
        begin = time.monotonic()
        try:
            command = [sys.executable, *train, "report=page", f"run_dir={path}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(bench.left(), 30.0))
        except subprocess.TimeoutExpired:
            end = "cut off by the limit of time"
        else:
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
                raise RuntimeError(f"`python {' '.join(train)}` failed: {reason}")
            end = "with its evaluation"
        seconds = time.monotonic() - begin
        last = _last_row(path / "metrics.csv")
    detail = f"{end}; iteration {last.get('iteration', '0')}, success {last.get('success_after', '?')}"
    speed = float(last.get("steps_per_second") or 0.0)
    words = f"of training, {' '.join(train[1:])}"
    return [
        summary(GROUP, "default reach run", [seconds], "s", None, detail),
        summary(GROUP, "environment steps per second", [speed], "", None, words),
    ]


def _last_row(path: Path) -> dict[str, str]:
    """The last iteration in the metrics of a run that may have been killed; empty if there is none."""
    if not path.is_file():
        return {}
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return rows[-1] if rows else {}


def _both(bench: Bench, make_run: Callable[[torch.device], Run]) -> dict[str, Run]:
    """The same work on both sides."""
    return {side: make_run(place) for side, place in bench.places().items()}


def _finished(run: Run, device: torch.device) -> None:
    """Run, and wait until the device has done all of it."""
    run()
    if device != CPU:
        torch.accelerator.synchronize(device)


def _training(algo: str, *given: str) -> TrainSettings:
    # What a gradient algorithm does once its warm start has ended.
    alone = [] if algo in ("in_context", "multitask") else ["algo.warm_start.iterations=0", "agent.context=episode"]
    settings = compose(["env=reach", f"algo={algo}", "agent=transformer", *alone, *given])
    assert isinstance(settings, TrainSettings)
    return settings


def _iterated(settings: TrainSettings, device: torch.device) -> dict[str, torch.Tensor]:
    trainer = Trainer(settings, device)
    trainer.iterate()
    return {name: value.detach().cpu() for name, value in trainer.policy.named_parameters()}


def _acting(count: int, width: int, device: torch.device) -> Run:
    """A function that takes ten control steps of an episode of 50 in so many simulations."""
    torch.manual_seed(0)
    policy = TransformerPolicy(24, 7, 50, width=width).to(device)
    actor, seen, felt = Actor(policy, None, count), torch.randn(count, 24), torch.zeros(count)

    def run() -> None:
        memory = actor.start(count)._replace(position=20)
        for _ in range(10):
            _, memory = actor.decide(memory, seen, felt, False, attrgetter("mean"))

    return run


def _minibatch(count: int, steps: int, width: int, device: torch.device) -> Run:
    """A function that computes the gradient of PPO on so many sequences."""
    torch.manual_seed(0)
    policy = TransformerPolicy(24, 7, steps, width=width).to(device)
    learner = InContext(policy, InContextSettings(tasks=count, episodes=1), torch.Generator().manual_seed(0))
    policy.set_attention(learner.attention)
    _, batch, _ = problem(count, 1, steps, device)
    learners, sequences = learner.twins(), Batch(*(x.flatten(0, 1) for x in batch))
    return lambda: shared_gradient(learners, sequences)


def _difference(name: str, ours: Gradients, theirs: Gradients) -> Row:
    """Of the gradients of the parameters alone: not every library has a rate for each."""
    return summary(GROUP, name, [difference(ours[:1], theirs[:1])], "", TOLERANCE)


def _against(bench: Bench, name: str, ours: Run, peer: Run, target: Target | None) -> Row:
    """Both on the accelerator."""
    rounds = 1 if bench.quick or bench.left() < 60.0 else 3
    both = {"ours": partial(_finished, ours, bench.device), "peer": partial(_finished, peer, bench.device)}
    seconds = interleave(both, rounds)
    mine, theirs = (sorted(seconds[side])[rounds // 2] for side in ("ours", "peer"))
    return speedup(GROUP, name, seconds["ours"], seconds["peer"], target, f"{mine:.4f} s against {theirs:.4f} s")
