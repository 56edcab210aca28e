"""Experiments: one file, one claim. Finding them, running them, keeping their results and where these came from.

registry finds `experiments/*.py` · outcome runs one and draws it · store keeps results · provenance says where they
came from · sweep runs a grid of flows, widths and seeds · progress shows that something happens.
"""
