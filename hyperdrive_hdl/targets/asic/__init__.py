"""From a chip to the cells of an ASIC library: mapping, areas, equivalence, timing, layout configuration."""
