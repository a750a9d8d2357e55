from ifguide.objectives.faded_ascent import FadedAscent
from ifguide.objectives.language_modeling import LanguageModeling
from ifguide.objectives.negative_preference import NegativePreference
from ifguide.objectives.removal import Removal
from ifguide.objectives.suppressed_language_modeling import SuppressedLanguageModeling
from ifguide.objectives.unlikelihood import Unlikelihood

__all__ = [
    "FadedAscent",
    "LanguageModeling",
    "NegativePreference",
    "Removal",
    "SuppressedLanguageModeling",
    "Unlikelihood",
]
