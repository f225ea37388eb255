"""Settings: their sources, their checks, their documentation."""

from goblin_assistant.config.goblin_file import (
    GoblinFile,
    ModelRow,
    PriceRow,
    ProviderRow,
    WeightedTarget,
)
from goblin_assistant.config.settings import Config, ConfigError

__all__ = [
    "Config",
    "ConfigError",
    "GoblinFile",
    "ModelRow",
    "PriceRow",
    "ProviderRow",
    "WeightedTarget",
]
