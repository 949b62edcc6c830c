"""Experiments as data: the experiment that a researcher writes, and the runs that the experiment resolves to."""
