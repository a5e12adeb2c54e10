"""Settings: frozen values, checked when they are made; what a recipe, a dataset, an environment or a launcher is."""

from pruning.settings.settings import Axes, Settings, keywords, setting
from pruning.settings.values import check_range, limits, path_of, value_of

__all__ = ["Axes", "Settings", "check_range", "keywords", "limits", "path_of", "setting", "value_of"]
