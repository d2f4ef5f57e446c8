"""Trainyard's pipelines: from a commit to a gated, versioned, deployed model."""
