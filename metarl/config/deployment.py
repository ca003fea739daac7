"""Settings of what is done with a trained policy outside of this project: adapting it, giving it away, watching it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agents.settings import WHOLE, Count, Natural, Settings, Text, said, setting
from metarl.config.settings import DEVICE, LISTED, TRUST, Device, EnvironmentSettings, Modules, OnARun, RunPath, Split

Numbered = Annotated[int, Field(ge=1, le=1000), WHOLE]


class GivenRun(Settings):
    """A run that is taken somewhere."""

    run: RunPath = setting(None, "a run folder, one of an adapted policy, or pretrained/<name>")
    checkpoint: Literal["last", "best"] = setting("last", "or best: as far as training itself could tell")
    trust: Modules = setting([], TRUST)


class AdaptSettings(GivenRun):
    """Adapt a trained policy to one task, from feedback alone, as on a robot; leaves a folder that run= takes."""

    env: EnvironmentSettings = setting(None, "what presents the task; null: the environment that it was trained on")
    episodes: Count = setting(10, "to collect before each inner step")
    steps: Numbered = setting(1, "inner gradient steps")
    out: Annotated[Text, said("a folder")] = setting(None, "a new folder, or one of an adapted policy")
    recording: Annotated[Text, said("a file")] | None = setting(
        None, "an .npz file of recorded episodes to adapt on, or minari:<dataset>, in place of env and episodes"
    )
    split: Split = setting("test", "where the task is drawn from, if the environment has tasks to give")
    task: Annotated[int, Field(ge=0, lt=LISTED), WHOLE] = setting(0, "its number in the split's list")
    device: Device = setting("auto", DEVICE)


class ExportSettings(GivenRun):
    """Write one step of acting as an ONNX file, for robots without Python or torch."""

    out: Annotated[Text, said("a file name")] = setting(None, "an .onnx file")
    opset: Numbered | None = setting(None, "of ONNX; null: the exporter's own")


class ViewSettings(OnARun):
    """Watch a trained run act in a browser, on this machine alone, and change its task while it acts."""

    task: Natural = setting(0, "its number in the split's list, at first")
    beside: RunPath | None = setting(
        None, "a second run on the same tasks, such as an oracle or one without memory: it acts on the same task"
    )
    host: Annotated[Text, said("an address of this machine")] = setting(
        "127.0.0.1", "where the page is served; any other than this machine's own is open to whoever reaches it"
    )
    port: Annotated[int, Field(ge=1, le=65535), WHOLE] = setting(8080, "where the page is served")
