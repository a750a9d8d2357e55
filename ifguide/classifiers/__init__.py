"""Classifiers: texts → probability of each category, behind one small protocol."""

from ifguide.classifiers.base import Classifier
from ifguide.classifiers.detoxify import DetoxifyClassifier
from ifguide.classifiers.profanity_check import ProfanityCheck

__all__ = ["Classifier", "DetoxifyClassifier", "ProfanityCheck"]
