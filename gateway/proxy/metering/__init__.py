"""What a call asks for and what it used: readers of bodies that pass, without I/O, fed chunk by chunk.

bytes -> decoding (Content-Encoding) -> framing (events, lines, frames) -> documents (JSON) -> readers (one an API).
Each keeps little, whatever passes; what it cannot read it reports as missing and never fails the call.
"""
