"""Serving: an accepted model bundle behind the Open Inference Protocol, v2. `model` and `bundle` need no web server."""
