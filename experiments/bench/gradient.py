"""One second-order MAML gradient on the Transformer against loops over tasks, `higher`'s and plain autograd's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from agents.policy import Policy, log_probability
from agents.transformer import TransformerPolicy
from experiments.bench.gradient_peers import Gradients, by_higher, by_loop, replica
from experiments.bench.measure import MissingPeer, Row, Target, interleave, speedup, summary
from metarl.algorithms.adaptation import Parameters
from metarl.algorithms.maml import MAML
from metarl.algorithms.threads import cores
from metarl.assembly.device import CPU
from metarl.config.algorithms import MAMLSettings, MetaInnerLoop
from metarl.rollouts.episodes import Batch

OBSERVATION, ACTION = 24, 7  # those of reach
Run = Callable[[], Gradients]
PEERS = {"higher": by_higher, "loop": by_loop}
SMALL, LARGE = (20, 10, 50), (40, 20, 100)  # tasks, episodes, steps
TOLERANCE = Target("<=", 1e-4)


def small(quick: bool) -> list[Row]:
    """Short episodes."""
    return _rows(_size(SMALL, quick), Target(">=", 1.5), None, 2 if quick else 9)


def large(quick: bool) -> list[Row]:
    """Long episodes, where the scores of the attention fall out of the cache; compiled too, unless quick."""
    return _rows(_size(LARGE, quick), Target(">=", 1.0), None if quick else Target(">=", 1.4), 2 if quick else 5)


def _size(size: tuple[int, int, int], quick: bool) -> tuple[int, int, int]:
    return (4, *size[1:]) if quick else size


MEASUREMENTS = (small, large)


def synthetic(policy: Policy, tasks: int, episodes: int, steps: int, seed: int) -> Batch:
    """A batch whose actions the policy could have taken, with random observations, advantages and targets."""
    generator = torch.Generator().manual_seed(seed)
    shape = (tasks, episodes, steps)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*shape, *size, generator=generator)

    tokens = normal(policy.layout.size)
    with torch.no_grad():
        output = policy(tokens.flatten(0, 1))
        actions = output.mean + torch.exp(output.log_std) * normal(ACTION).flatten(0, 1)
        log_probability_ = log_probability(output, actions)
    unflat = (actions.unflatten(0, shape[:2]), log_probability_.unflatten(0, shape[:2]))
    advantage = normal()
    return Batch(tokens, *unflat, advantage, normal(), torch.ones(shape), advantage)


def difference(ours: Sequence[Parameters], theirs: Sequence[Parameters]) -> float:
    """The largest difference of any entry, relative to the largest entry; of parameters and log rates apart."""
    worst = 0.0
    for mine, peer in zip(ours, theirs, strict=True):
        scale = max(float(value.abs().max()) for value in peer.values())
        worst = max(worst, *(float((mine[name] - peer[name]).abs().max()) / scale for name in mine))
    return worst


def _rows(size: tuple[int, int, int], eager: Target, compiled: Target | None, rounds: int) -> list[Row]:
    tasks, episodes, steps = size
    words = f"{tasks} x {episodes} x {steps}"  # tasks, episodes, steps
    policy, support, query = problem(tasks, episodes, steps)
    log_rates = learner_of(policy, support, compile=False).rate_parameters
    ours: dict[str, Run] = {"ours": our_gradient(policy, support, query, compile=False)}
    rows: list[Row] = []
    if compiled:
        ours["ours compiled"] = our_gradient(policy, support, query, compile=True)
        start = time.perf_counter()
        ours["ours compiled"]()
        rows.append(summary("gradient", f"{words}: first compiled call", [time.perf_counter() - start], "s"))
    peers: dict[str, Run] = {}
    for name, peer in PEERS.items():
        for attention, label in (("math", name), ("explicit", f"{name} with our attention")):
            peers[label] = partial(peer, replica(policy, attention), log_rates, support, query)
    exact, results = ours["ours"](), {}
    absent: list[str] = []
    threads = {}
    for label, run in peers.items():
        try:
            threads[label], results[label] = _best_threads(run)
        except MissingPeer as absence:
            absent.append(str(absence))
    peers = {label: _with_threads(run, threads[label]) for label, run in peers.items() if label in threads}
    seconds = interleave(ours | peers, rounds)
    for label in peers:
        for mine, target in (("ours", eager), ("ours compiled", compiled)):
            if mine in ours:
                goal = None if "our attention" in label else target
                detail = (
                    f"{statistics.median(seconds[mine]):.3f} s against {statistics.median(seconds[label]):.3f} s"
                    f" with {threads[label]} torch threads"
                )
                name = f"{words}: {mine} / {label}"
                rows.append(speedup("gradient", name, seconds[mine], seconds[label], goal, detail))
    if compiled:
        results["ours compiled"] = ours["ours compiled"]()
    for label, result in results.items():
        name = f"{words}: difference from {label}"
        rows.append(summary("gradient", name, [difference(exact, result)], "", TOLERANCE))
    if absent:
        raise MissingPeer(absent[0], rows)
    return rows


def _best_threads(run: Run) -> tuple[int, Gradients]:
    """The number of torch threads, one or all cores, that serves a peer best, and the peer's gradients."""
    times, result = {}, None
    for count in {1, cores()}:
        timed = _with_threads(run, count)
        timed()
        start = time.perf_counter()
        result = timed()
        times[count] = time.perf_counter() - start
    assert result is not None
    return min(times, key=lambda count: times[count]), result


def _with_threads(run: Run, count: int) -> Run:
    def call() -> Gradients:
        torch.set_num_threads(count)
        return run()

    return call


def problem(
    tasks: int, episodes: int, steps: int, device: torch.device = CPU
) -> tuple[TransformerPolicy, Batch, Batch]:
    """A policy with the sizes of reach on a device, with data before and after an inner step."""
    torch.manual_seed(0)
    policy = TransformerPolicy(OBSERVATION, ACTION, steps)
    # The small start of the action head would hide errors in the body's gradient.
    with torch.no_grad():
        policy.get_parameter("head.2.weight").mul_(30.0)
    before, after = (synthetic(policy, tasks, episodes, steps, seed) for seed in (1, 2))
    return policy.to(device), _on(device, before), _on(device, after)


def _on(device: torch.device, batch: Batch) -> Batch:
    return Batch(*(x.to(device) for x in batch))


def learner_of(policy: Policy, support: Batch, compile: bool) -> MAML:
    """A learner that takes one inner step on such data."""
    tasks, episodes, _ = support.valid.shape
    inner = MetaInnerLoop(steps=1, rate=0.01, unadapted_weight=0.0, compile=compile)
    settings = MAMLSettings(tasks=tasks, episodes=episodes, inner=inner)
    learner = MAML(policy, settings, torch.Generator().manual_seed(0))
    policy.set_attention(learner.attention)
    return learner


def our_gradient(policy: Policy, support: Batch, query: Batch, compile: bool) -> Run:
    """Our meta-gradient as a function without arguments."""
    policy = replica(policy, "math")
    learner = learner_of(policy, support, compile)
    learners = learner.twins()

    def run() -> Gradients:
        torch.set_num_threads(cores())
        return learner.meta_gradient([support, query], learners)[:2]

    return run
