"""Settings: their sources, their checks, their documentation."""

from goblin_assistant.config.goblin_file import (
    GoblinFile,
    ModelRow,
    PriceRow,
    ProviderRow,
    WeightedTarget,
)
from goblin_assistant.config.settings import FAULT_ROW, Config, ConfigError

__all__ = [
    "FAULT_ROW",
    "Config",
    "ConfigError",
    "GoblinFile",
    "ModelRow",
    "PriceRow",
    "ProviderRow",
    "WeightedTarget",
]
