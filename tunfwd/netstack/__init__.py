"""IP packets <-> TCP connections and UDP datagrams, without I/O."""
