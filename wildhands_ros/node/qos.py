"""Quality of service: which profiles are used, what does not fit together, and how large images get through."""

from __future__ import annotations

import copy
import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

if TYPE_CHECKING:  # newer rclpy has it in rclpy.endpoint_info
    from rclpy.topic_endpoint_info import TopicEndpointInfo

IMAGE_INPUT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
"""SensorData as drivers offer it, but only the newest: takes reliable and best-effort publishers alike."""

INFO_INPUT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)

LATCHED_INFO_INPUT = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
"""For camera_info that was published once, before the node listened: best effort would not get it."""

RESULT_OUTPUT = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
"""For hands and markers: a subscriber that stalls for three seconds loses none, and best-effort ones fit too."""

IMAGE_OUTPUT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
"""Annotated images: RViz asks for reliable ones by default."""

TF_OUTPUT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""The same as tf2_ros's DynamicBroadcasterQoS."""

DIAGNOSTICS_OUTPUT = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
"""As diagnostic_updater's."""

OVERRIDABLE = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY, QoSPolicyKind.DEPTH)
"""What the parameters `qos_overrides.<topic>.<subscription or publisher>.*` can change."""

_A_CENTURY_S = 100 * 365 * 86400.0

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_THRESHOLD = 32 << 20  # glibc accepts no more


# where Fast DDS looks for a profile's name: version 3 (Kilted and later), version 2 (Humble, Jazzy)
_PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_WITH_VERSION_2 = frozenset({"humble", "iron", "jazzy"})


def overridable(profile: QoSProfile) -> tuple[QoSProfile, QoSOverridingOptions]:
    """A copy of a profile, as rclpy writes into it, and the option that lets parameters change it."""
    return copy.copy(profile), QoSOverridingOptions(OVERRIDABLE)


def profile_variable() -> str:
    """The one that this distribution's Fast DDS reads: version 2 knows the old one only, version 3 warns of it."""
    return _PROFILE_VARIABLES[os.environ.get("ROS_DISTRO") in _WITH_VERSION_2]


def profile_environment() -> dict[str, str]:
    """What names the profile to Fast DDS."""
    return {profile_variable(): str(fastdds_profile())}


def fastdds_profile() -> Path:
    """The Fast DDS profile that lets camera-sized images through shared memory.

    For the camera driver and for the node, before they start, in the environment: see `profile_environment`. Raises
    FileNotFoundError for a broken installation.
    """
    # beside the sources (also reached through the links of a symlink install), or in the prefix this is installed into
    here = Path(__file__).resolve()
    places = [here.parents[2] / "config", *(prefix / "share/wildhands_ros/config" for prefix in here.parents)]
    for place in places:
        if (place / "fastdds.xml").is_file():
            return place / "fastdds.xml"
    raise FileNotFoundError("config/fastdds.xml of this package is not there: install the package again")


def keep_image_buffers() -> bool:
    """Tells glibc to reuse the memory of image-sized buffers instead of asking the kernel for each one anew.

    A fresh megabyte costs hundreds of page faults, at 30 images a second in several copies. For the whole process;
    call once at its start. False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    accepted = mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD), mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
    return all(accepted)


def describe(profile: QoSProfile, policy: QoSPolicyKind = QoSPolicyKind.INVALID) -> str:
    """Reliability and durability in words, such as 'best effort, volatile'; deadline or liveliness where asked."""
    words = f"{_words(profile.reliability)}, {_words(profile.durability)}"
    if policy is QoSPolicyKind.DEADLINE:
        return f"{words}, {_period('deadline', profile.deadline)}"
    if policy is QoSPolicyKind.LIVELINESS:
        kind = _words(profile.liveliness) if profile.liveliness else "automatic"
        return f"{words}, liveliness {kind}, {_period('lease', profile.liveliness_lease_duration)}"
    return words


def input_mismatch(topic: str, policy: QoSPolicyKind, ours: QoSProfile, publishers: Iterable[TopicEndpointInfo]) -> str:
    """Why nothing arrives on `topic`: both sides' policies and the remedy."""
    offers = "; ".join(f"{_full_name(p)} offers {describe(p.qos_profile, policy)}" for p in publishers)
    return (
        f"a publisher of {topic} does not fit in {_words(policy)}: this node asks for {describe(ours, policy)}; "
        f"{offers or 'it is gone by now'}. Set the parameter qos_overrides.{topic}.subscription.reliability (or "
        ".durability) of this node to what is offered, or change the publisher"
    )


def output_mismatch(
    topic: str, policy: QoSPolicyKind, ours: QoSProfile, subscribers: Iterable[TopicEndpointInfo]
) -> str:
    """Why a subscriber gets nothing from `topic`: both sides' policies and the remedy."""
    asks = "; ".join(f"{_full_name(s)} asks for {describe(s.qos_profile, policy)}" for s in subscribers)
    if policy in (QoSPolicyKind.DEADLINE, QoSPolicyKind.LIVELINESS):
        remedy = f"ask for no {_words(policy)}: results come as images do, and diagnostics tell when none come"
    else:
        remedy = (
            "ask for what is offered, or set the parameter "
            f"qos_overrides.{topic}.publisher.durability (or .reliability) of this node"
        )
    return (
        f"a subscriber of {topic} does not fit in {_words(policy)}: this node offers {describe(ours, policy)}; "
        f"{asks or 'it is gone by now'}. Let the subscriber {remedy}"
    )


def input_events(
    node: Node, topic: str, ours: QoSProfile, report: Callable[[str, str], None]
) -> SubscriptionEventCallbacks:
    """Reports publishers of `topic`, a resolved name, that offer less than `ours` asks for."""

    def on_incompatible(event: object) -> None:
        publishers = node.get_publishers_info_by_topic(topic)
        report("input_qos_mismatch", input_mismatch(topic, _policy_of(event), ours, publishers))

    return SubscriptionEventCallbacks(incompatible_qos=on_incompatible, use_default_callbacks=False)


def output_events(
    node: Node, topic: str, ours: QoSProfile, report: Callable[[str, str], None]
) -> PublisherEventCallbacks:
    """Reports subscribers of `topic`, a resolved name, that ask for more than `ours` offers."""

    def on_incompatible(event: object) -> None:
        subscribers = node.get_subscriptions_info_by_topic(topic)
        report("output_qos_mismatch", output_mismatch(topic, _policy_of(event), ours, subscribers))

    return PublisherEventCallbacks(incompatible_qos=on_incompatible, use_default_callbacks=False)


def _policy_of(event: object) -> QoSPolicyKind:
    return QoSPolicyKind(getattr(event, "last_policy_kind", QoSPolicyKind.INVALID))


def _words(value: ReliabilityPolicy | DurabilityPolicy | LivelinessPolicy | QoSPolicyKind) -> str:
    return value.name.lower().replace("_", " ")


def _period(name: str, duration: Duration) -> str:
    """0 and everything from a century on mean that there is none."""
    seconds = duration.nanoseconds * 1e-9
    return f"{name} {seconds:g} s" if 0 < seconds < _A_CENTURY_S else f"no {name}"


def _full_name(endpoint: TopicEndpointInfo) -> str:
    if endpoint.node_name == "_NODE_NAME_UNKNOWN_":  # just discovered: its name comes a moment later
        return "it"
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
