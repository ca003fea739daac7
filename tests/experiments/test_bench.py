"""What is timed is the same mathematics on both sides."""

from collections.abc import Iterator

import pytest
import torch

from experiments.bench import gradient
from experiments.bench.gradient_peers import by_loop, replica


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The number of torch threads, which the measurement sets, is what it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_gradient_is_that_of_a_loop_over_tasks() -> None:
    policy, support, query = gradient.problem(3, 2, 5)
    log_rates = gradient.learner_of(policy, support, compile=False).rate_parameters
    ours = gradient.our_gradient(policy, support, query, compile=False)()
    theirs = by_loop(replica(policy, "math"), log_rates, support, query)
    assert gradient.TOLERANCE.met(gradient.difference(ours, theirs))
