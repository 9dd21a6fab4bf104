"""libtoxcore by cffi, in the shape of the current pytox."""
