"""Verilog that tells which word of which map the n-th word of a chip's fm_out is."""

from typing import NamedTuple


class StoredMap(NamedTuple):
    """A map that is stored for every image, and the part of it that a chip of a mesh has at most."""

    layer: str
    map: str
    channels: int
    height: int
    width: int
    rows: int
    cols: int


def places_text(programs: list[list[StoredMap]], images: int) -> str:
    """Tasks for a module with constants ``ROW`` and ``COL``, the chip's position: ``locate`` prints a word's
    layer, map, image, channel, y and x.

    Parameters
    ----------
    programs : maps in the order in which each program stores them, image by image
    """
    labels = {stored: _label(stored) for stores in programs for stored in stores}
    length = max([len(label) for label in labels.values()], default=1)
    loops = "".join(
        "      for (image = 0; image < IMAGES; image = image + 1) begin\n"
        + "".join(f"        look({labels[stored]}, image, {_sizes(stored)});\n" for stored in stores)
        + "      end\n"
        for stores in programs
    )
    return f"""\
  // Where a word of fm_out belongs: own pixels in raster order, channels innermost, map by map.
  localparam IMAGES = {images};
  integer left = 0;  // words from the map at hand to the one that is looked for
  reg located = 0;

  function integer own(input integer size, input integer part, input integer at);  // rows or columns
    own = size <= part * at ? 0 : size - part * at < part ? size - part * at : part;
  endfunction

  task look(
    input [{8 * length - 1}:0] map, input integer image, input integer channels,
    input integer height, input integer width, input integer high, input integer wide
  );
    integer cols, words;
    begin
      cols = own(width, wide, COL);
      words = channels * own(height, high, ROW) * cols;
      if (!located && left < words) begin
        located = 1;
        $display("  %0s, image %0d, channel %0d, y %0d, x %0d", map, image, left % channels,
                 ROW * high + left / channels / cols, COL * wide + left / channels % cols);
      end
      left = left - words;
    end
  endtask

  task locate(input integer word);
    integer image;
    begin
      left = word;
      located = 0;
{loops}    end
  endtask
"""


def _sizes(stored: StoredMap) -> str:
    return f"{stored.channels}, {stored.height}, {stored.width}, {stored.rows}, {stored.cols}"


def _label(stored: StoredMap) -> str:
    """A Verilog string."""
    text = (
        f"map {stored.map}" if stored.layer in ("", stored.map) else f"layer {stored.layer}, map {stored.map}"
    )
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
