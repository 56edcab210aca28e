"""Runs: a flow or an optimizer on the weights of a network, on its error, or on its function; what
is read off, and what solves it."""
