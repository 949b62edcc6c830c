"""Hands the numbers of runs to trackers of other projects (TensorBoard, W&B), in a process of its own beside the runs."""
