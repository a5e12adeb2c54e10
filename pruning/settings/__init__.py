"""Settings: frozen values, checked when they are made; what a recipe, a dataset, an environment or a launcher is."""

from pruning.settings.settings import Axes, Settings, keywords, setting
from pruning.settings.values import check_range, limits, value_of

__all__ = ["Axes", "Settings", "check_range", "keywords", "limits", "setting", "value_of"]
