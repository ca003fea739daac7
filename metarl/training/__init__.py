"""The meta-training loop, and how a run begins, goes on and ends."""
