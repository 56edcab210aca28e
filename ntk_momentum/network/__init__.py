"""Networks: the paper's two-layer net, its sums over neurons, and models that users name as
FILE.py:FUNCTION."""
