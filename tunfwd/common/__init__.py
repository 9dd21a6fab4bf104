"""What every layer shares, the cores too: no I/O, no clock."""
