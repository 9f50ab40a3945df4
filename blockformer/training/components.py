"""The registered components that a run is made of, which decide what options there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blockformer.data.module import TextData
from blockformer.data.options import DATA
from blockformer.data.options import chosen_components as chosen_data
from blockformer.option_groups import Chosen, OptionGroup
from blockformer.training.objectives import OBJECTIVE, ObjectiveSettings
from blockformer.training.optimizers import OPTIMIZER, OptimizerSettings, chosen_components
from registry import Entry

GROUPS: dict[str, tuple[OptionGroup, type]] = {
    "data": (DATA, TextData),
    "objective": (OBJECTIVE, ObjectiveSettings),
    "optimizer": (OPTIMIZER, OptimizerSettings),
}
"""The groups in which components are chosen, and the class that has each group's common settings."""
NAMING = tuple(f"{group.name}.{option}" for group, _ in GROUPS.values() for option in group.slots)
"""The options that name a component."""


@dataclass(frozen=True)
class Components:
    """The names of a run's components.

    Args:
        dataset: of `data.dataset`.
        tokenizer: of `data.tokenizer`; None: the dataset is a task, whose token ids are not text.
        objective: of `objective.type`.
        optimizer: of `optimizer.type`.
        schedule: of `optimizer.schedule`.
    """

    dataset: str
    tokenizer: str | None = "bpe"
    objective: str = "causal_lm"
    optimizer: str = "adamw"
    schedule: str = "cosine"

    @staticmethod
    def of(data: Mapping[str, Any], objective: str, optimizer: Mapping[str, Any]) -> "Components":
        """The components that the settings of the data choose, an objective, and those of the optimizer's settings.

        Raises:
            DataError, UserError: there is no such component; the message begins with the option.
        """
        OBJECTIVE.entry("type", objective)
        text, chosen = chosen_data(data), chosen_components(optimizer)
        return Components(text["dataset"], text.get("tokenizer"), objective, chosen["type"], chosen["schedule"])

    def chosen(self, group: str) -> Chosen:
        """The name of the component of each option of a group; none for a group without components."""
        every: dict[str, Chosen] = {
            "data": {"dataset": self.dataset} | ({"tokenizer": self.tokenizer} if self.tokenizer else {}),
            "objective": {"type": self.objective},
            "optimizer": {"type": self.optimizer, "schedule": self.schedule},
        }
        return every.get(group, {})

    def entries(self) -> list[Entry]:
        """The registered components."""
        return [
            group.entry(option, name)
            for group, _ in GROUPS.values()
            for option, name in self.chosen(group.name).items()
        ]

    @property
    def tokenizer_options(self) -> tuple[str, ...]:
        """The settings of the tokenizer."""
        return tuple(DATA.entry("tokenizer", self.tokenizer).parameters) if self.tokenizer else ()

    def settings_class(self, group: str) -> type:
        """The class of a group's settings, with those of these components in its signature."""
        known, base = GROUPS[group]
        return known.class_for(self.chosen(group), base)

    def unknown(self, option: str) -> str | None:
        """What to do about an option such as `data.pairs` that only other components have; None: none has it."""
        name, _, key = option.partition(".")
        if name not in GROUPS:
            return None
        group, chosen = GROUPS[name][0], self.chosen(name)
        return group.unknown(key, chosen) if key in group.elsewhere(chosen) or key in group.common else None

    def elsewhere(self) -> dict[str, str]:
        """The options that these components do not have and others do, each with those that have it, in words."""
        return {
            f"{name}.{key}": readers
            for name, (group, _) in GROUPS.items()
            for key, readers in group.elsewhere(self.chosen(name)).items()
        }


def list_options() -> dict[str, bool]:
    """Every option of a component that takes a list, and whether it also takes a text alone."""
    return {f"{name}.{key}": text for name, (group, _) in GROUPS.items() for key, text in group.lists().items()}
