"""Which implementation of attention suits an algorithm."""

from __future__ import annotations

import pytest
import torch

from agents.transformer import TransformerPolicy
from metarl.algorithms.in_context import InContext
from metarl.algorithms.learner import Learner
from metarl.algorithms.maml import MAML
from metarl.algorithms.reptile import Reptile
from metarl.config.algorithms import FOMAMLSettings, InContextSettings, MAMLSettings, MetaInnerLoop, ReptileSettings

COMPILED = MAMLSettings(inner=MetaInnerLoop(compile=True))


@pytest.mark.parametrize(
    ("learner", "settings", "short", "long"),
    [
        (InContext, InContextSettings(), "math", "fused"),
        (Reptile, ReptileSettings(), "math", "fused"),
        (MAML, FOMAMLSettings(), "math", "fused"),
        (MAML, MAMLSettings(), "explicit", "explicit"),
        (MAML, COMPILED, "math", "math"),
    ],
    ids=["in_context", "reptile", "fomaml", "maml", "compiled maml"],
)
def test_what_is_differentiated_once_is_fused_on_long_sequences(
    learner: type[Learner], settings: object, short: str, long: str
) -> None:
    for length, expected in {learner.fused_above: short, learner.fused_above + 1: long}.items():
        policy = TransformerPolicy(3, 2, max_length=length, width=4, layers=1, heads=2)
        assert learner(policy, settings, torch.Generator()).attention == expected  # type: ignore[call-arg]
