"""Settings of the policies, and what every definition of settings is made of. Nothing here imports torch.

A setting is defined once, by a field: its type and bounds, its default, and the sentence that `--help` prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

# package.module:Class, or gymnasium:id, where an id is [module:][namespace/]name
ENTRY = re.compile(r"(?!gymnasium:)[\w.]+:\w+|gymnasium:([\w.-]+:)?([\w.-]+/)?[\w.-]+")


def setting(default: Any, description: str, *, formerly: str | None = None) -> Any:
    """A field with its default and the sentence that help prints.

    Args:
        formerly: the name by which older configurations and command lines know it.
    """
    return Field(default, description=description, json_schema_extra={"formerly": formerly} if formerly else None)


def said(allowed: str) -> WithJsonSchema:
    """Says in an error what a value must be, where its type and bounds alone do not."""
    return WithJsonSchema({"allowed": allowed})


def _whole(value: object) -> object:
    """4e6 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_text(value: object) -> object:
    """A number can be a name: that of a folder such as 2024."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _whole_match(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError
        return value

    return AfterValidator(check)


WHOLE = BeforeValidator(_whole)  # stands last, or pydantic's schema loses the bounds
Natural = Annotated[int, Field(ge=0), WHOLE]
Count = Annotated[int, Field(ge=1), WHOLE]
Steps = Annotated[int, Field(ge=0, le=1000), WHOLE]
Passes = Annotated[int, Field(ge=1, le=1000), WHOLE]
Threads = Annotated[int, Field(ge=0, le=1024), WHOLE]
Positive = Annotated[float, Field(gt=0.0)]
Deviation = Annotated[float, Field(ge=0.02, le=2.7)]  # within agents.policy.LOG_STD_RANGE; outside it learns nothing
Weight = Annotated[float, Field(ge=0.0)]
Text = Annotated[str, Field(min_length=1), BeforeValidator(_as_text), said("a name")]
Entry = Annotated[str, _whole_match(ENTRY), said("package.module:Class")]


class Settings(BaseModel):
    """A group of settings: typed, bounded, and unchangeable once it is made.

    A nested group may be given in part, as a mapping: the rest is the default's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    OMITTED: ClassVar[frozenset[str]] = frozenset()  # settings that are not written while they are None

    @model_validator(mode="before")
    @classmethod
    def _complete_groups(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        fields = cls.model_fields.items()
        groups = {name: field.default for name, field in fields if isinstance(field.default, Settings)}
        partly = {name: data[name] for name in groups if isinstance(data.get(name), Mapping)}
        return {**data, **{name: {**groups[name].plain(), **given} for name, given in partly.items()}}

    @model_serializer(mode="wrap")
    def _omit(self, handler: Callable[[Any], dict[str, Any] | None]) -> dict[str, Any] | None:
        plain = handler(self)
        if plain is None:  # a group that may be None comes here as well
            return None
        return {name: value for name, value in plain.items() if value is not None or name not in self.OMITTED}

    def plain(self) -> dict[str, Any]:
        """The settings as plain data, to be written to a file."""
        return self.model_dump()

    def flat(self) -> dict[str, Any]:
        """The settings by dotted key, as a command line names them."""
        return dict(_flat(self.plain()))


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def name_of(entry: str) -> str:
    """What something of somebody's own is called: its class."""
    return re.split("[:/]", entry)[-1]


class Chosen(Settings):
    """A group that is chosen by a name, or by the `package.module:Class` of somebody's own, its entry.

    An entry without a name is called by that of its class.
    """

    OMITTED: ClassVar[frozenset[str]] = frozenset({"entry"})
    name: Text
    entry: Entry | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_of_entry(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("entry") is not None and data.get("name") is None:
            return {**data, "name": name_of(str(data["entry"]))}
        return data

    def options(self) -> dict[str, Any]:
        """The settings without what they are chosen by: keyword arguments of what is built from them."""
        return {name: value for name, value in self.plain().items() if name not in ("name", "entry")}


class PolicySettings(Chosen):
    """What every policy has; a policy of your own defines a subclass and names it as its `Settings`.

    Its fields are keyword arguments of the policy: `number: int = setting(64, "a sentence for --help")`. A type is one
    that YAML has (bool, int, float, str, list, dict, Literal), or such a one with bounds, like `Count`.
    """

    initial_std: Deviation = setting(0.5, "standard deviation of the actions at the start")

    def remembers(self) -> bool:
        """Whether the policy acts on more than the present observation."""
        return True

    def parameters(self) -> int:
        """At least so many numbers it learns: what cannot fit into the memory is refused before it is allocated."""
        return 0

    def kept(self) -> int:
        """At least so many numbers of its memory it keeps for each token that it has seen."""
        return 0


class InformedCritic(PolicySettings):
    """Of a policy whose critic can see the task: it takes `privileged_size`, how much that is."""

    critic_sees_task: bool = setting(
        False, "in training its critic is told the hidden task (arXiv 1710.06542); the policy never is"
    )

    def options(self) -> dict[str, Any]:
        return {name: value for name, value in super().options().items() if name != "critic_sees_task"}


class TransformerSettings(InformedCritic):
    """A causal Transformer over the tokens of an episode or a trial."""

    name: Text = "transformer"
    width: Count = setting(32, "of the hidden state")
    layers: Count = setting(2, "blocks of attention and MLP")
    heads: Count = setting(2, "of the attention; they divide the width")
    context: Literal["auto", "none", "step", "episode", "trial"] = setting(
        "auto",
        "what it remembers; step: the last action and its feedback; auto: nothing in multi-task training, a trial "
        "where there are several episodes to a trial, nothing in a gradient algorithm alone, else an episode",
    )
    estimates_task: bool = setting(
        False,
        "in context and multi-task training: it also learns to tell the hidden task from what it remembers (arXiv "
        "1905.06424), which shapes its memory; needs critic_sees_task",
    )

    def remembers(self) -> bool:
        return self.context not in ("none", "step")

    def parameters(self) -> int:
        return 12 * self.layers * self.width**2

    def kept(self) -> int:
        return 2 * self.width * self.layers if self.remembers() else 0


class MLPSettings(InformedCritic):
    """The memoryless network of the MAML paper."""

    name: Text = "mlp"
    hidden: Annotated[list[Count], Field(min_length=1)] = setting([100, 100], "widths of the layers")
    activation: Literal["relu", "tanh"] = setting("relu", "between the layers")
    initial_std: Deviation = setting(1.0, "standard deviation of the actions at the start")

    def remembers(self) -> bool:
        return False

    def parameters(self) -> int:
        return 2 * (sum(a * b for a, b in pairwise(self.hidden)) + sum(self.hidden))  # the critic has as many


POLICIES: dict[str, type[PolicySettings]] = {"transformer": TransformerSettings, "mlp": MLPSettings}
