"""Who we know, and what stands between us."""
