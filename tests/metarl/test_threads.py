"""Functions side by side in threads that stay."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from envs.core.cores import usable_cores
from metarl.algorithms.threads import run_all


def who() -> tuple[str, int]:
    time.sleep(0.05)  # long enough that each function needs a thread of its own
    return threading.current_thread().name, torch.get_num_threads()


def test_threads_stay_and_have_one_torch_thread_each_while_the_caller_keeps_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, again = run_all([who, who]), run_all([who, who])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len({name for name, _ in first}) == 2
    assert {name for name, _ in first} == {name for name, _ in again}
    assert {threads for _, threads in first + again} == {1}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that binds processes to cores")
def test_cores_that_were_not_given_are_not_counted() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


def test_a_single_function_runs_in_the_thread_of_its_caller() -> None:
    assert run_all([threading.current_thread]) == [threading.current_thread()]


def test_an_error_comes_out_after_the_other_functions_have_ended() -> None:
    ended = []

    def fails() -> None:
        raise ValueError("on purpose")

    def goes_on() -> None:
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(ValueError, match="on purpose"):
        run_all([fails, goes_on])
    assert ended == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    run_all([who, who])
    child = os.fork()
    if child == 0:
        os._exit(0 if len({name for name, _ in run_all([who, who])}) == 2 else 1)
    deadline = time.monotonic() + 20.0
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
