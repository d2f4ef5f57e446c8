"""Trainyard's pipelines: from a commit to a gated, versioned, deployed model."""

__version__ = "0.1.0"
