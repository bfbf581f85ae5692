"""Inputs that stay silent: when the node complains, and what it says that helps."""

from __future__ import annotations

import dataclasses
import re
import types

import pytest

from wildhands_ros.node.diagnostics import Throttle
from wildhands_ros.node.input_watch import InputWatch, Surroundings
from wildhands_ros.node.inputs import InputTopics, survey

AROUND = Surroundings("/image", "/camera_info", 1, 0, ("/other",), fastdds_unprofiled=True, profile="/x/fastdds.xml")


def test_all_is_well_while_images_and_infos_come() -> None:
    watch = InputWatch(started=0)
    for now in range(1, 30):
        watch.image(now)
        watch.info(now, "camera")
        assert watch.complaint(now + 0.5, AROUND) is None


@pytest.mark.parametrize(("every", "complains"), [(1, False), (2, False), (3, True)])
def test_at_a_cameras_rate_only_less_than_half_of_the_images_is_a_trickle(every: int, complains: bool) -> None:
    watch = InputWatch(started=0)
    for i in range(300):
        watch.info(i / 30, "camera")
        if i % every == 0:
            watch.image(i / 30)
    assert (watch.complaint(10.0, AROUND) is not None) == complains


def test_a_few_camera_infos_without_images_may_be_chance() -> None:
    watch = InputWatch(started=0)
    watch.image(5.1)
    for i in range(7):
        watch.info(5.2 + i / 30, "camera")
    assert watch.complaint(6.0, AROUND) is None
    watch.info(5.9, "camera")
    assert watch.complaint(6.0, AROUND)[0] == "images_do_not_arrive"


def test_missing_camera_info_is_noticed_after_two_seconds_of_images() -> None:
    watch = InputWatch(started=0)
    watch.image(100.0)
    watch.image(101.9)
    assert watch.complaint(101.9, AROUND) is None
    watch.image(102.1)
    kind, text = watch.complaint(102.1, AROUND)
    assert kind == "no_camera_info" and "/camera_info" in text and "remap" in text


def test_nobody_publishing_names_what_there_is() -> None:
    watch = InputWatch(started=0)
    around = dataclasses.replace(AROUND, image_publishers=0)
    assert watch.complaint(4.9, around) is None
    kind, text = watch.complaint(5.1, around)
    assert kind == "no_publisher" and "/other" in text and "/image" in text and "image_transport" not in text
    compressed = dataclasses.replace(around, other_images=(), other_transport=("/cam/image_raw/compressed",))
    _, text = watch.complaint(5.1, compressed)
    assert "seen: /cam/image_raw/compressed." in text
    assert "image:=/cam/image_raw -p image_transport:=compressed" in text
    _, text = watch.complaint(5.1, dataclasses.replace(around, other_images=()))
    assert "seen: none." in text and "image_transport" not in text


def test_images_announced_but_never_arriving_suggest_the_profile() -> None:
    watch = InputWatch(started=0)
    watch.info(3.0, "camera")
    assert watch.complaint(4.0, AROUND) is None
    kind, text = watch.complaint(6.0, AROUND)
    assert kind == "images_do_not_arrive"
    assert "FASTDDS_DEFAULT_PROFILES_FILE=/x/fastdds.xml" in text and "1 camera_info" in text
    kind, text = watch.complaint(6.0, dataclasses.replace(AROUND, fastdds_unprofiled=False))
    assert "512 KB" not in text and "driver's process needs" in text


def test_a_trickle_of_images_beside_steady_camera_info_is_noticed() -> None:
    watch = InputWatch(started=0)
    for i in range(300):
        watch.info(i / 30, "camera")
        if i % 100 == 0:
            watch.image(i / 30)
    kind, text = watch.complaint(10.0, AROUND)
    assert kind == "images_do_not_arrive" and "1 image(s)" in text and "149 camera_info" in text
    assert "throttled" in text and "if this machine is busy" in text  # which loses some, not all
    assert "busy" not in watch.complaint(12.0, AROUND)[1]  # no image for 5 s


def test_images_of_another_type_are_named_with_the_remedy() -> None:
    watch = InputWatch(started=0)
    kind, text = watch.complaint(
        6.0,
        dataclasses.replace(AROUND, image_topic="/a/compressed", wrong_image_type="sensor_msgs/msg/CompressedImage"),
    )
    assert kind == "wrong_type" and "image_transport to compressed" in text and "-r image:=/a)" in text
    _, text = watch.complaint(6.0, dataclasses.replace(AROUND, wrong_image_type="sensor_msgs/msg/Image"))
    assert "image_transport to raw" in text
    _, text = watch.complaint(6.0, dataclasses.replace(AROUND, wrong_image_type="std_msgs/msg/String"))
    assert "std_msgs/msg/String, which is no image" in text


def test_camera_info_that_cannot_come_is_explained() -> None:
    watch = InputWatch(started=0)
    watch.image(1.0)
    _, text = watch.complaint(4.0, dataclasses.replace(AROUND, wrong_info_type="sensor_msgs/msg/Image"))
    assert "carries sensor_msgs/msg/Image" in text


def test_who_begins_anew_has_patience_again() -> None:
    watch = InputWatch(started=0)
    watch.image(1.0)
    watch.info(1.0, "camera")
    assert watch.complaint(20.0, AROUND)[0] == "images_stopped"
    watch.begin_anew(20.0)
    assert watch.complaint(21.0, AROUND) is None and watch.hears_info(6.0) and not watch.hears_info(21.0)
    assert watch.complaint(26.0, AROUND)[0] == "images_do_not_arrive"
    watch = InputWatch(started=0)
    watch.image(1.0)
    assert watch.complaint(4.0, AROUND)[0] == "no_camera_info"
    watch.begin_anew(20.0)
    watch.image(21.0)
    assert watch.complaint(22.0, AROUND) is None and not watch.hears_info(22.0)
    assert watch.complaint(24.0, AROUND)[0] == "no_camera_info"


def test_a_stream_that_stops_is_noticed() -> None:
    watch = InputWatch(started=0)
    watch.image(1.0)
    watch.info(1.0, "camera")
    assert watch.complaint(7.0, AROUND)[0] == "images_stopped"


def test_others_who_publish_the_nodes_results_are_noticed_once_they_are_no_ghosts() -> None:
    watch = InputWatch(started=0)
    alone, rivals = (dataclasses.replace(AROUND, hands_topic="/wildhands/hands", hands_publishers=n) for n in (1, 2))
    assert watch.rivalry(5.0, alone) is None
    assert watch.rivalry(6.0, rivals) is None and watch.rivalry(25.0, rivals) is None  # the process before, killed
    assert watch.rivalry(26.0, alone) is None and watch.rivalry(55.0, rivals) is None
    kind, text = watch.rivalry(57.0, rivals)
    assert kind == "results_of_others" and "somebody else publishes /wildhands/hands too" in text
    assert "__ns" in text and "tf_prefix" in text and "bag" in text
    assert watch.rivalry(58.0, alone) is None
    watch.begin_anew(200.0)  # it was disabled, and nobody looked
    assert watch.rivalry(201.0, rivals) is None and watch.rivalry(229.0, rivals) is None
    assert watch.rivalry(231.0, rivals) is not None


@pytest.mark.parametrize(
    ("images", "infos", "says"),
    [
        (2, 1, r"^/c/image has 2 publishers: "),
        (1, 3, r"^/c/camera_info has 3 publishers: "),
        (2, 2, r"^/c/image has 2 publishers and /c/camera_info has 2 publishers: "),
    ],
)
def test_two_cameras_on_one_topic_are_noticed_once_they_are_no_ghosts(images, infos, says):
    watch = InputWatch(started=0)
    topics = dataclasses.replace(AROUND, image_topic="/c/image", info_topic="/c/camera_info")
    one = dataclasses.replace(topics, image_publishers=1, info_publishers=1)
    several = dataclasses.replace(topics, image_publishers=images, info_publishers=infos)

    def crowd(now: float, around: Surroundings) -> tuple[str, str] | None:
        for publisher in range(infos):
            watch.info(now, calibration=publisher)
        return watch.crowd(now, around)

    assert crowd(25.0, several) is None and crowd(26.0, one) is None  # the driver before, killed
    assert crowd(55.0, several) is None
    kind, text = crowd(57.0, several)
    assert kind == "several_publishers" and re.search(says, text) and "ros2 topic info -v /c/image" in text
    assert crowd(58.0, one) is None
    watch.begin_anew(200.0)
    assert crowd(229.0, several) is None and crowd(231.0, several) is not None


def test_several_may_publish_the_same_camera_info() -> None:
    """As a driver does for each of its image topics, or who publishes a calibration for a driver that does so too."""
    watch = InputWatch(started=0)
    around = dataclasses.replace(AROUND, image_publishers=1, info_publishers=2)
    for now in range(100):
        watch.info(now, calibration="wide" if now < 50 else "zoomed")
        assert watch.crowd(now + 0.5, around) is None


@pytest.mark.parametrize(("topic", "seen"), [("/head/wildhands/hands", 3), ("/all_hands", 1)])
def test_others_who_publish_the_nodes_results_are_counted_unless_it_was_told_to_share_the_topic(
    topic: str, seen: int
) -> None:
    node = types.SimpleNamespace(
        get_fully_qualified_name=lambda: "/head/wildhands", resolve_topic_name=lambda _name: topic,
        get_topic_names_and_types=list, count_publishers=lambda name: 3 if name == topic else 0,
        get_publishers_info_by_topic=lambda _name: [],
    )  # fmt: skip
    around = survey(node, InputTopics("/image", "/camera_info", False))
    assert (around.hands_topic, around.hands_publishers) == (topic, seen)


def test_what_another_of_these_nodes_has_drawn_is_not_proposed_as_an_input() -> None:
    types_of = {
        "/chest/image": "Image", "/chest/wildhands/image_annotated": "Image",
        "/chest/image/compressed": "CompressedImage", "/chest/wildhands/image_annotated/compressed": "CompressedImage",
    }  # fmt: skip
    node = types.SimpleNamespace(
        get_fully_qualified_name=lambda: "/head/wildhands", resolve_topic_name=lambda _name: "/head/wildhands/hands",
        get_topic_names_and_types=lambda: [(name, [f"sensor_msgs/msg/{kind}"]) for name, kind in types_of.items()],
        count_publishers=lambda _name: 1, get_publishers_info_by_topic=lambda _name: [],
    )  # fmt: skip
    around = survey(node, InputTopics("/head/image", "/head/camera_info", False))
    assert around.other_images == ("/chest/image",)
    assert around.other_transport == ("/chest/image/compressed",)


def test_throttle_knows_a_repetition_with_other_counts() -> None:
    now = [0.0]
    throttle = Throttle(10, clock=lambda: now[0])
    watch = InputWatch(started=0)
    said = []
    for i in range(300):
        watch.info(i / 30, "camera")
        if i % 60 == 59:
            watch.image(i / 30)
        if i >= 180 and i % 30 == 0:
            now[0] = i / 30
            complaint = watch.complaint(now[0], AROUND)
            assert complaint is not None
            said.append(throttle(*complaint))
    assert len(said) == 4 and said[0] is not None and said[1:] == [None] * 3
    now[0] = 17.0
    assert "3 more of this kind" in (throttle(*complaint) or "")
