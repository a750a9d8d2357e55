"""IF-Guide: language models that do not learn an unwanted behaviour in the first place."""

__version__ = "0.1.0"
