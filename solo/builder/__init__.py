"""Kaniko's stand-in, and what an image name means on this host.

`python -m solo.builder` takes the executor's arguments; `dockerfile` parses, `build` carries out, `store` keeps
layers and images by content, `base` makes the environment that `FROM python:3.…` stands for, `images` is the table
that pods use.
"""
