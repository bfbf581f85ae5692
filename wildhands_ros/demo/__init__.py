"""The demonstration: known and real hands through the whole chain, over ROS 2 topics between processes."""
