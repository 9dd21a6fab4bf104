"""Hosts in network namespaces: for the demo, the end-to-end tests, and anybody's own distributed program.

`topology` makes hosts and joins them, `link` decides what happens to each frame on its way, `emulator`
carries the frames, `lab` is the command line. Nothing here touches an interface, a route or a namespace that
it did not make.
"""
