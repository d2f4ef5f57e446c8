"""Runs the committed Argo manifests on one machine; knows Argo's and Kubernetes' public formats, nothing of
`pipelines`.
"""
