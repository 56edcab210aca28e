"""Special functions of the constant-kernel theory."""
