"""Runs the Pod objects of the Store as host processes, each in a directory of its own.

The way of one pod: `runtime` sees it, `prepare` makes its directory and plan, `launcher` asks the fork server for a
*shim*, the shim runs the containers and leaves `exit.json`, `artifacts` collects what they wrote. Kept free of
imports: the fork server is started with this package on its path and must be small.
"""
