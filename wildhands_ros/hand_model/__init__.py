"""The deformable hand: a MANO-format model, either the open one in this package or the user's own MANO files."""

from wildhands_ros.hand_model.anatomy import HandAnatomy, hand_anatomy
from wildhands_ros.hand_model.data import HandData
from wildhands_ros.hand_model.layer import HandLayer, HandMesh, HandSkeleton
from wildhands_ros.hand_model.loading import HandModel, load_hand_model

__all__ = [
    "HandAnatomy",
    "HandData",
    "HandLayer",
    "HandMesh",
    "HandModel",
    "HandSkeleton",
    "hand_anatomy",
    "load_hand_model",
]
