"""The running program: configuration, state on disk, and the parts wired into one nursery."""
