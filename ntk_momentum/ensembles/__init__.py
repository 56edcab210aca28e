"""Many runs in one compiled program: planned, packed, spread over devices, and put together again."""
