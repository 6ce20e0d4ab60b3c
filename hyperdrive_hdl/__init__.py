"""Hyperdrive, the binary-weight CNN engine: RTL, compiler, bit-exact model, simulation. Start at README.md.

Nothing is imported here, so that ``hyperdrive_hdl.compiler``, ``.model`` and ``.perf`` load without Amaranth.
"""
