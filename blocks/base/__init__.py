"""Contracts of blocks: the site, the context, and one abstract class per slot.

Shape legend, used everywhere: B batch, T time (queries), S keys, D model width, H heads, G key/value heads,
K head width, V vocabulary, N tokens in any order, E experts.
"""

from blocks.base.adapter import Adapter, AdapterFactory
from blocks.base.axes import (
    Axis,
    Change,
    Channels,
    Experts,
    Fixed,
    Heads,
    Hidden,
    KeyHeads,
    PositionAxis,
    ResizeContext,
    Vocabulary,
)
from blocks.base.bias import DistanceBias
from blocks.base.cache import Cache
from blocks.base.component import Component
from blocks.base.context import Context, growth
from blocks.base.ends import (
    Embedding,
    EmbeddingFactory,
    ExtraPrediction,
    Generator,
    GeneratorFactory,
    Head,
    HeadFactory,
    Pooling,
    Transform,
    TransformFactory,
)
from blocks.base.features import Feature, check_features
from blocks.base.feedforward import Expert, FeedForward, Router
from blocks.base.init import Init, Role
from blocks.base.intermediates import Intermediate, described, listening
from blocks.base.key_values import KeyValues
from blocks.base.linear import Linear
from blocks.base.local_heads import LocalHeads
from blocks.base.lookup import Lookup, LookupFactory
from blocks.base.positions import AttentionPositions, InputPositions, RotaryScaling, ScalingFactory
from blocks.base.recorded import Recorded
from blocks.base.residual import (
    AdditiveResidual,
    Readout,
    ReadoutFactory,
    Residual,
    Streams,
    check_one_stream,
    common_streams,
)
from blocks.base.site import Site
from blocks.base.slots import Activation, Factory, Layer, Mixer, Norm, SitelessFactory, Stack
from blocks.base.width import WidthMultipliers

__all__ = [
    "Activation",
    "Adapter",
    "AdapterFactory",
    "AdditiveResidual",
    "AttentionPositions",
    "Axis",
    "Cache",
    "Change",
    "Channels",
    "Component",
    "Context",
    "DistanceBias",
    "Embedding",
    "EmbeddingFactory",
    "Expert",
    "Experts",
    "ExtraPrediction",
    "Factory",
    "Feature",
    "FeedForward",
    "Fixed",
    "Generator",
    "GeneratorFactory",
    "Head",
    "HeadFactory",
    "Heads",
    "Hidden",
    "Init",
    "InputPositions",
    "Intermediate",
    "KeyHeads",
    "KeyValues",
    "Layer",
    "Linear",
    "LocalHeads",
    "Lookup",
    "LookupFactory",
    "Mixer",
    "Norm",
    "Pooling",
    "PositionAxis",
    "Readout",
    "ReadoutFactory",
    "Recorded",
    "Residual",
    "ResizeContext",
    "Role",
    "RotaryScaling",
    "Router",
    "ScalingFactory",
    "Site",
    "SitelessFactory",
    "Stack",
    "Streams",
    "Transform",
    "TransformFactory",
    "Vocabulary",
    "WidthMultipliers",
    "check_features",
    "check_one_stream",
    "common_streams",
    "described",
    "growth",
    "listening",
]
