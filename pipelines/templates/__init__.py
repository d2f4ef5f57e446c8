"""The pipelines in Hera, one module each; `make render` writes them to `mlops/`, and a test fails when the two
differ.
"""
