"""Rendered training data: hands of many people in many poses, holding things, seen by a camera on the head."""
