"""The processes that train one policy together: which tasks each has, and what they compute and decide as one.

PyTorch's launcher starts them (`torchrun --nproc-per-node=2 -m metarl.train ...`). Each simulates some of
the tasks of every meta-batch, adapts to them, and computes as much of an outer step as the others. A plain run is
`ALONE`: every method gives back what it was given, bit for bit, and algorithms do not ask how many processes there are.

Each method below is called by all processes, in the same order: it waits for the others.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.utils._pytree import tree_flatten, tree_unflatten

from agents.policy import Moments, widest
from metarl.errors import Interrupted, ProcessLostError, TrainingError
from metarl.launched import PARENT, local_rank, world_size

Tree = TypeVar("Tree")

SILENCE = timedelta(minutes=30)  # after which a process that does not answer counts as lost
TOGETHER = (Interrupted, TrainingError)  # what all processes raise at the same place: the first one says it
LAST_WORD = 20.0  # seconds in which a process that ends may say why, before the others end
GRACE = 1.0  # seconds from then on: the launcher ends all at once as soon as one has ended
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
# gloo has no type of its own for a connection that broke or was silent, but names the place in its source. A message of
# the wrong length it names otherwise: "[enforce fail at ...".
GLOO_LOST = re.compile(r"\[\S*gloo[/\\](transport|rendezvous)[/\\]")


class Ranks:
    """The only process of a run."""

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that reads and writes the run's folder, prints and evaluates."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process' part of `count` tasks: neighbours, in the order of the processes."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return x

    def mean(self, tree: Tree, weight: Tensor | int) -> Tree:
        """The mean over all processes of every tensor in a tree.

        Args:
            weight: of this process' values, such as the number of steps that they are means over; those of weight 0
                may be anything.
        """
        return tree

    def moments(self, moments: Moments) -> Moments:
        """The moments of the values of all processes."""
        return moments

    def most(self, *values: float) -> list[float]:
        """The largest of each value in any process."""
        return list(values)

    def whole(self, tree: Tree) -> Tree:
        """The entries of all processes along the first dimension, which the tensors of a tree (n, ...) share."""
        return tree

    def told(self, value: Tree) -> list[Tree]:
        """The value of every process: plain data."""
        return [value]

    def from_first(self, value: Tree) -> Tree:
        """The first process' value: plain data and tensors on the CPU."""
        return value


ALONE = Ranks()


class Group(Ranks):
    """One of several processes. Every method raises ProcessLostError if another process has ended."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def total(self, x: Tensor) -> Tensor:
        result = x.clone()
        with _others():
            dist.all_reduce(result)
        return result

    def mean(self, tree: Tree, weight: Tensor | int) -> Tree:
        leaves, form = tree_flatten(tree)
        flat = torch.cat([leaf.detach().flatten() for leaf in leaves])
        weighed = torch.as_tensor(weight, device=flat.device).to(flat).view(1)
        sums = self.total(torch.cat([torch.where(weighed > 0, flat * weighed, 0.0), weighed]))  # in one message
        parts = (sums[:-1] / sums[-1].clamp(min=1.0)).split([leaf.numel() for leaf in leaves])
        return tree_unflatten([part.view(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)], form)

    def moments(self, moments: Moments) -> Moments:
        """By the parallel form of Welford's algorithm (Chan et al. 1979)."""
        shape, dtype = moments.mean.shape, moments.mean.dtype
        mean, variance = (x.flatten().to(widest(x.device)) for x in moments[1:])
        mine = torch.cat([mean.new_tensor([moments.count]), mean, variance])
        count, means, variances = self._gathered(mine).split([1, len(mean), len(mean)], 1)
        whole = count.sum()
        if not whole:
            return moments
        mean = (count * means).sum(0) / whole
        variance = (count * (variances + (means - mean).square())).sum(0) / whole
        return Moments(int(whole), mean.view(shape).to(dtype), variance.view(shape).to(dtype))

    def most(self, *values: float) -> list[float]:
        result = torch.tensor(values, dtype=torch.float64)
        with _others():
            dist.all_reduce(result, dist.ReduceOp.MAX)
        return result.tolist()

    def whole(self, tree: Tree) -> Tree:
        leaves, form = tree_flatten(tree)
        rows = torch.cat([leaf.flatten(1) for leaf in leaves], 1)
        counts = self._gathered(torch.tensor([len(rows)])).flatten().tolist()
        padded = rows.new_zeros(max(counts), rows.shape[1])  # messages must be of one length
        padded[: len(rows)] = rows
        rows = torch.cat([part[:count] for part, count in zip(self._gathered(padded), counts, strict=True)])
        parts = rows.split([leaf[0].numel() for leaf in leaves], 1)
        wholes = [part.reshape(-1, *leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)]
        return tree_unflatten(wholes, form)

    def told(self, value: Tree) -> list[Tree]:
        values: list[Any] = [None] * self.size
        with _others():
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Tree) -> Tree:
        values = [value if self.first else None]
        with _others():
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]  # type: ignore[return-value]

    def _gathered(self, x: Tensor) -> Tensor:
        """Tensors of one shape, with a leading dimension for the processes."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        with _others():
            dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)


@contextmanager
def _others() -> Iterator[None]:
    """What torch says of connections to the other processes means that one of them is gone; all else is our mistake."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not GLOO_LOST.search(str(error)):
            raise
        raise ProcessLostError("another process of this run has ended, and the others cannot go on") from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that the launcher started, as one; `ALONE` where it did not.

    If they fail, one of them raises its error; the others end by SystemExit, and only after that one.

    Raises:
        ProcessLostError: if another process was lost without a word.
    """
    if world_size() == 1:
        yield ALONE
        return
    _end_with_the_launcher()
    with _others():
        store, rank, size = next(rendezvous("env://", timeout=SILENCE))
    words = _Words(store, rank)
    try:
        with _others():  # a process may have failed while this one is still connecting to it
            dist.init_process_group(_backends(), store=store, rank=rank, world_size=size, timeout=SILENCE)
        before = signal.signal(signal.SIGTERM, _end_unless_failing)
        yield Group()
        signal.signal(signal.SIGTERM, before)
    except BaseException as error:
        speaks = rank == 0 if isinstance(error, TOGETHER) else words.claim()
        if speaks:
            # The launcher ends all as soon as it sees that one has ended: this one must come to print why. It does so
            # in moments; one that hangs the launcher kills.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            words.spoken()
            raise
        words.end_after_it(error)
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _end_unless_failing(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the process as ever, but for one that fails: it is on its way to say why."""
    if sys.exception() is None:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _end_with_the_launcher() -> None:
    """Have the kernel send SIGTERM when the launcher is killed, which has no time then to end what it started.

    On Linux alone; elsewhere the processes go on without it. See prctl(2): it is the thread that started this process
    whose end counts, in torchrun the main one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != PARENT:  # killed already
            signal.raise_signal(signal.SIGTERM)


def _backends() -> str:
    """What carries the messages: gloo between CPUs; between accelerators, if there are any, what torch has for them."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "gloo"
    torch.accelerator.set_device_index(local_rank() % torch.accelerator.device_count())
    return f"cpu:gloo,{accelerator.type}:{dist.get_default_backend_for_device(accelerator)}"


class _Words:
    """Which process says why all of them end. The launcher keeps it, whichever process dies."""

    def __init__(self, store: Any, rank: int) -> None:
        self.store = PrefixStore("metarl", store)
        self.mine = str(rank)

    def claim(self) -> bool:
        """Whether nobody else says it; then this process does. True as well if it cannot be known."""
        try:
            return self.store.compare_set("speaker", "", self.mine).decode() == self.mine
        except RuntimeError:
            return True

    def spoken(self) -> None:
        """This process is about to end with its error, and its work is saved."""
        with suppress(RuntimeError):
            self.store.set("spoken", self.mine)

    def end_after_it(self, error: BaseException) -> NoReturn:
        """End, with the exit status that the error would have had, once the process that says why has ended."""
        with suppress(RuntimeError):
            self.store.wait(["spoken"], timedelta(seconds=LAST_WORD))
        time.sleep(GRACE)
        raise SystemExit(128 + error.signal if isinstance(error, Interrupted) else 1) from None
