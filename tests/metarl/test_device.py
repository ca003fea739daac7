"""`device=`: what computes, and what is said of one that cannot."""

from __future__ import annotations

import pytest
import torch

from metarl.assembly import device
from metarl.assembly.device import resolve_device
from metarl.errors import ConfigError, DeviceError


def test_devices() -> None:
    assert resolve_device("cpu") == resolve_device("auto") == torch.device("cpu")
    for word in ("gpu", "meta", "hpu", "cpu:0", "auto:1", "cuda:", "cuda:x", ""):
        with pytest.raises(
            ConfigError, match=f"^device={word}: must be auto, cpu or an accelerator that torch has, such"
        ):
            resolve_device(word)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_a_device_that_is_not_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.get_device_module(kind)
    monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"device={kind}: there is no {kind} here; choose device=cpu or device=auto"):
        resolve_device(kind)
    monkeypatch.setattr(module, "is_available", lambda: True)
    monkeypatch.setattr(module, "device_count", lambda: 2)
    assert resolve_device(kind) == torch.device(kind)
    assert resolve_device(f"{kind}:1") == torch.device(f"{kind}:1")
    for number in (2, 2**40):  # torch itself takes the latter for none
        with pytest.raises(DeviceError, match=f"device={kind}:{number}: of {kind} there are 2, counted from 0"):
            resolve_device(f"{kind}:{number}")


def test_each_process_of_a_machine_has_an_accelerator_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launched = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert resolve_device("cuda") == torch.device("cuda:1")
    line = "^device=cuda:0: all 2 processes on this machine would share it; choose device=cuda, "
    with pytest.raises(ConfigError, match=line):
        resolve_device("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # the other one is on another machine
    assert resolve_device("cuda:0") == torch.device("cuda:0")


def test_an_accelerator_has_to_prove_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes one only if the bench has seen that very kind be faster."""
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Quick 3000")
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(device, "FASTER", frozenset({"Quick 3000"}))
    assert resolve_device("auto") == found
