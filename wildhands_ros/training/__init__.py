"""Trains the network: samples in, a checkpoint out. Needs the extra `train`."""
