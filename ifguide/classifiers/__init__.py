"""Classifiers: texts → probability of each category, behind one small protocol."""

from ifguide.classifiers.base import Classifier, ClassifierSettings, ReadyClassifier
from ifguide.classifiers.detoxify import DetoxifyClassifier
from ifguide.classifiers.profanity_check import ProfanityCheck
from ifguide.classifiers.sequence_classification import SequenceClassification
from ifguide.classifiers.text_file import FileClassifier

__all__ = [
    "Classifier",
    "ClassifierSettings",
    "DetoxifyClassifier",
    "FileClassifier",
    "ProfanityCheck",
    "ReadyClassifier",
    "SequenceClassification",
]
