"""All parts of a bundle, in the order of their checks."""

from __future__ import annotations

from search.bundles.int8.part import Int8Files
from search.bundles.parts.code import Code
from search.bundles.parts.description import Description
from search.bundles.parts.graph import Graph
from search.bundles.parts.log import Log
from search.bundles.parts.pages import Pages
from search.bundles.parts.part import Part
from search.bundles.parts.study import StudyFile
from search.bundles.parts.weights import Weights

PARTS: tuple[type[Part], ...] = (
    Description, Weights, Code, Graph, StudyFile, Log, Pages, Int8Files,
)  # fmt: skip
