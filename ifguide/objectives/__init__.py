from ifguide.objectives.language_modeling import LanguageModeling
from ifguide.objectives.suppressed_language_modeling import SuppressedLanguageModeling

__all__ = ["LanguageModeling", "SuppressedLanguageModeling"]
