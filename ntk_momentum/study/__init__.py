"""Experiments, and everything that shows results: figures, tables, the report."""
